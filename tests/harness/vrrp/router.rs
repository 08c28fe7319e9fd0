//! A VRRP router of either make on a node, so that a scenario holds for both.
//!
//! Must not know: what a scenario asks of it.

use crate::config::Config;
use crate::daemon::Daemon;
use crate::pair::{INTERFACE, Node};
use crate::process::{freeze_tree, kill_tree};
use crate::vrrp::instance::Setup;
use crate::vrrp::keepalived::Keepalived;
use anyhow::Result;

/// Who makes a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// Debian's keepalived.
    Keepalived,
    /// The product.
    Lb,
}

impl Make {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived",
            Self::Lb => "lb",
        }
    }
}

/// A running router; killed, without a goodbye, when dropped.
pub struct Router<'a> {
    /// Where it runs.
    pub node: &'a Node,
    process: Running<'a>,
}

enum Running<'a> {
    Keepalived(Keepalived),
    Lb(Daemon<'a>),
}

impl<'a> Router<'a> {
    /// Starts one that does nothing but VRRP.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(make: Make, node: &'a Node, setup: &Setup) -> Result<Self> {
        Self::start_director(make, node, setup, Config::new(&[INTERFACE]))
    }

    /// Starts one that is also a director: for keepalived, `config` is somebody else's.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_director(
        make: Make,
        node: &'a Node,
        setup: &Setup,
        mut config: Config,
    ) -> Result<Self> {
        let process = match make {
            Make::Keepalived => {
                Running::Keepalived(Keepalived::start(node, &setup.keepalived(node.name))?)
            }
            Make::Lb => {
                config.vrrp = setup.clone();
                Running::Lb(Daemon::start(node, &config)?)
            }
        };
        Ok(Self { node, process })
    }

    /// The pid of its first process.
    pub fn pid(&self) -> u32 {
        match &self.process {
            Running::Keepalived(keepalived) => keepalived.pid(),
            Running::Lb(daemon) => daemon.pid(),
        }
    }

    /// The product's daemon, for questions that only it answers.
    pub fn daemon(&self) -> Option<&Daemon<'a>> {
        match &self.process {
            Running::Keepalived(_) => None,
            Running::Lb(daemon) => Some(daemon),
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        match &self.process {
            Running::Keepalived(keepalived) => keepalived.log(),
            Running::Lb(daemon) => daemon.log(),
        }
    }

    /// SIGTERM: it says goodbye; waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(self) -> Result<()> {
        match self.process {
            Running::Keepalived(keepalived) => keepalived.terminate(),
            Running::Lb(daemon) => daemon.terminate().map(drop),
        }
    }

    /// Stops every process of it where it stands (SIGSTOP): the kernel goes on, nobody decides.
    ///
    /// # Errors
    /// When a process cannot be stopped.
    pub fn freeze(&self) -> Result<()> {
        freeze_tree(self.pid()).map(drop)
    }

    /// SIGKILL to all of its processes at once: what they had set up stays as it is.
    pub fn kill(self) {
        kill_tree(self.pid());
    }
}
