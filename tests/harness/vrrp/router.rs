//! A VRRP router of either make on a node, so that a scenario holds for both.
//!
//! Must not know: what a scenario asks of it.

use crate::config::Config;
use crate::daemon::Daemon;
use crate::pair::{INTERFACE, Node};
use crate::process::{freeze, kill_all, tree};
use crate::programs;
use crate::vrrp::instance::Setup;
use crate::vrrp::keepalived::Keepalived;
use anyhow::Result;
use std::time::Duration;

/// Who makes a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// Debian's keepalived.
    Keepalived,
    /// The product.
    Lb,
    /// A keepalived that was told something else, which a scenario has to find out.
    Faulty(Fault),
}

/// What such a keepalived does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its priority is one less.
    OtherPriority,
    /// Its VRID is the next one.
    OtherVrid,
    /// Its interval is twice as long.
    Slow,
    /// It preempts although it must not.
    Preempts,
    /// It preempts at once although it has to wait.
    Impatient,
    /// It announces an address once.
    Quiet,
    /// It ends without a goodbye.
    Rude,
    /// It tracks nothing.
    Untracked,
    /// It tells nobody.
    Untold,
}

impl Make {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived",
            Self::Lb => "lb",
            Self::Faulty(_) => "faulty keepalived",
        }
    }
}

/// A running router; killed, without a goodbye, when dropped.
pub struct Router<'a> {
    /// Where it runs.
    pub node: &'a Node,
    rude: bool,
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
            Make::Faulty(fault) => {
                let setup = fault.plant(setup.clone());
                Running::Keepalived(Keepalived::start(node, &setup.keepalived(node.name))?)
            }
            Make::Lb => {
                config.vrrp = setup.clone();
                Running::Lb(Daemon::start(node, &config)?)
            }
        };
        Ok(Self { node, process, rude: make == Make::Faulty(Fault::Rude) })
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
        if self.rude {
            return self.kill();
        }
        match self.process {
            Running::Keepalived(keepalived) => keepalived.terminate(),
            Running::Lb(daemon) => daemon.terminate().map(drop),
        }
    }

    /// SIGKILL to its first process alone: keepalived's parent, or lb's controller. What it has
    /// started may live on.
    pub fn kill_first(self) {
        match self.process {
            // A parent that is killed takes its child along.
            Running::Keepalived(keepalived) => drop(keepalived),
            Running::Lb(daemon) => daemon.kill(),
        }
    }

    /// Stops every process of it where it stands (SIGSTOP): the kernel goes on, nobody decides.
    ///
    /// # Errors
    /// When a process cannot be stopped.
    pub fn freeze(&self) -> Result<()> {
        freeze(&self.pids()?)
    }

    /// SIGKILL to all of its processes at once: what they had set up stays as it is.
    ///
    /// # Errors
    /// When they cannot be found.
    pub fn kill(self) -> Result<()> {
        kill_all(&self.pids()?);
        Ok(())
    }

    /// Every process of it, whoever is whose child.
    fn pids(&self) -> Result<Vec<u32>> {
        match &self.process {
            Running::Keepalived(keepalived) => Ok(tree(keepalived.pid())),
            Running::Lb(_) => self.node.pids_of(&programs::lb()?),
        }
    }
}

impl Fault {
    /// What a router with the fault is told instead of `setup`.
    fn plant(self, mut setup: Setup) -> Setup {
        for instance in &mut setup.instances {
            match self {
                Self::OtherPriority => instance.priority -= 1,
                Self::OtherVrid => instance.vrid += 1,
                Self::Slow => instance.interval *= 2,
                Self::Preempts => instance.preempt = true,
                Self::Impatient => instance.preempt_delay = Duration::ZERO,
                Self::Quiet => instance.announcements = Some(1),
                Self::Rude => {}
                Self::Untracked => instance.track_scripts.clear(),
                Self::Untold => {
                    (instance.notify, instance.notify_states) = (None, None);
                    instance.mail = false;
                }
            }
        }
        setup
    }
}
