//! Has the log follow the configuration in force, here and in the speaker.
//!
//! Must not know: how lines are written.

use crate::config::Loaded;
use crate::controller::document::Reopened;
use crate::controller::request::{Document, Refusal, RefusalKind, Request};
use crate::controller::task::Controller;
use crate::logging::Logger;
use crate::model::Director;
use crate::speaker::log::LogSettings;
use crate::speaker::protocol::Request as Say;

/// Opens the targets of a file that was just read, on a thread that may wait for them.
///
/// # Errors
/// One line when one of them cannot be opened.
pub(super) fn prepare(logger: &Logger, loaded: Box<Loaded>) -> Result<Box<Loaded>, Vec<String>> {
    let Loaded { director, .. } = &*loaded;
    let prepared = logger.prepare(&director.log, &director.node);
    prepared.map(|()| loaded).map_err(|error| vec![error])
}

impl Controller {
    /// The log is as `director` says from now on.
    pub(super) fn follow_log(&self, director: &Director) {
        let before = &self.start.director;
        if (&before.log, &before.node) == (&director.log, &director.node) {
            return;
        }
        self.start.logger.set(&director.log, &director.node);
        self.say_log(director);
    }

    /// Tells the speaker how to log.
    pub(super) fn say_log(&self, director: &Director) {
        let settings = LogSettings::of(&director.log, &director.node);
        self.vrrp.say(Say::Log(Box::new(settings)));
    }

    /// Opens log files anew, on a thread that may wait for those that write them.
    pub(super) fn reopen_logs(&self, request: Option<Request>) {
        self.vrrp.say(Say::ReopenLogs);
        let logger = self.start.logger.clone();
        tokio::task::spawn_blocking(move || {
            let mut targets = Vec::new();
            let mut errors = Vec::new();
            for reopened in logger.reopen() {
                match reopened.error {
                    None => targets.push(reopened.target),
                    Some(error) => errors.push(format!("{}: {error}", reopened.target)),
                }
            }
            for error in &errors {
                tracing::error!("not opened anew: {error}");
            }
            if errors.is_empty() {
                tracing::info!("log files were opened anew");
            }
            let Some(request) = request else { return };
            request.answer(if errors.is_empty() {
                Ok(Document::Reopened(Reopened { targets }))
            } else {
                let mut refusal =
                    Refusal::new(RefusalKind::Failed, "lines go on where they went before");
                refusal.document.errors = errors;
                Err(refusal)
            });
        });
    }
}
