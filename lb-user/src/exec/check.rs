//! Whether a command may run as a user: nobody else can have changed what would run.
//!
//! Like keepalived's `enable_script_security`, and stricter: it holds for every user and not only
//! for root, and it asks for owners too. Everything on the way from `/` to the program, through
//! symbolic links, must be owned by root or by the user that it runs as (so for root: by root), and
//! must not be writable by others, nor by a group other than root's. A directory with the sticky
//! bit may be, since only their owners replace what lies in it; then a link in it has to be
//! owned like the rest. Rights that access control lists give show as those of the group.
//!
//! An interpreter that a script names, and what a program reads, are not looked at.
//!
//! Must not know: how commands run.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Uid, User};
use thiserror::Error;

/// Why a command may not run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// There is no program.
    #[error("the command is empty: name a program")]
    Empty,
    /// The program is not named from the root.
    #[error("{0:?} is no absolute path: write the program's whole path")]
    NotAbsolute(String),
    /// A word holds a byte that no argument can hold.
    #[error("the command's word {0:?} holds a NUL byte: leave it out")]
    Nul(String),
    /// The user database does not know the user.
    #[error("there is no user {0:?} on this host: create it or name another one")]
    NoUser(String),
    /// The user database cannot be asked now, which says nothing about the command.
    #[error("the user {user:?} cannot be looked up: {why}: see to this host's user database")]
    Lookup {
        /// Whom.
        user: String,
        /// Why.
        why: String,
    },
    /// Only root becomes another user.
    #[error("the daemon is not root and cannot run {program:?} as {user}: run it as root")]
    NotRoot {
        /// What would run.
        program: String,
        /// As whom.
        user: String,
    },
    /// Something on the way cannot be looked at.
    #[error("{}: {why}: put that right or name another program", path.display())]
    Unreachable {
        /// What.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The program is no regular file.
    #[error("{} is no regular file: name the program itself", .0.display())]
    NoFile(PathBuf),
    /// Its mode does not let the user run it.
    #[error("{} is not executable for {user}: chmod +x", path.display())]
    NotExecutable {
        /// What.
        path: PathBuf,
        /// For whom.
        user: String,
    },
    /// A third user owns something on the way.
    #[error(
        "{} belongs to user id {owner}, who could put something else in its place: chown it to \
         root{}", path.display(), or(user)
    )]
    Owner {
        /// What.
        path: PathBuf,
        /// The owner's id.
        owner: u32,
        /// As whom it would run.
        user: String,
    },
    /// Others could change something on the way.
    #[error("{} can be written by {by}: chmod {mode}", path.display())]
    Writable {
        /// What.
        path: PathBuf,
        /// Group or others.
        by: String,
        /// What takes the right away.
        mode: &'static str,
    },
}

fn or(user: &str) -> String {
    if user == "root" { String::new() } else { format!(" or {user}") }
}

/// A user that commands run as, as the user database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whom {
    /// The name.
    pub name: String,
    /// The user's id.
    pub uid: Uid,
    /// The user's primary group.
    pub gid: Gid,
}

impl Whom {
    /// Looks the user up. May ask the network (NSS): blocks.
    ///
    /// # Errors
    /// [`Refused::NoUser`] and [`Refused::Lookup`].
    pub fn find(name: &str) -> Result<Self, Refused> {
        match User::from_name(name) {
            Ok(Some(User { name, uid, gid, .. })) => Ok(Self { name, uid, gid }),
            Ok(None) => Err(Refused::NoUser(name.to_owned())),
            Err(error) => {
                let why = error.desc().to_owned();
                Err(Refused::Lookup { user: name.to_owned(), why })
            }
        }
    }
}

/// As whom a command is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// The user of this name.
    User(String),
    /// The user of this name if the host has one, and else root.
    UserOrRoot(String),
}

impl RunAs {
    /// Looks the user up. May ask the network (NSS): blocks.
    ///
    /// # Errors
    /// As [`Whom::find`]. A user of whom it cannot be said whether the host has one is never root.
    pub fn find(&self) -> Result<Whom, Refused> {
        match self {
            Self::User(name) => Whom::find(name),
            Self::UserOrRoot(name) => or_root(Whom::find(name)),
        }
    }
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::UserOrRoot(name) => write!(f, "{name} or root"),
        }
    }
}

/// Root where there is no such user, and only there.
fn or_root(found: Result<Whom, Refused>) -> Result<Whom, Refused> {
    match found {
        Err(Refused::NoUser(_)) => {
            Ok(Whom { name: "root".to_owned(), uid: Uid::from_raw(0), gid: Gid::from_raw(0) })
        }
        found => found,
    }
}

/// Whether `words` may run as `user`; see the module. Reads the file system and the user
/// database: blocks. It is repeated before every run.
///
/// # Errors
/// The first thing that is wrong, and what to do about it.
pub fn check(words: &[String], user: &RunAs) -> Result<Whom, Refused> {
    let program = words.first().filter(|word| !word.is_empty()).ok_or(Refused::Empty)?;
    if let Some(word) = words.iter().find(|word| word.contains('\0')) {
        return Err(Refused::Nul(word.clone()));
    }
    if !program.starts_with('/') {
        return Err(Refused::NotAbsolute(program.clone()));
    }
    let whom = user.find()?;
    let own = Uid::effective();
    if !own.is_root() && own != whom.uid {
        return Err(Refused::NotRoot { program: program.clone(), user: whom.name });
    }
    walk(Path::new(program), &whom)?;
    Ok(whom)
}

/// Links on the way before it is taken for a loop, as the kernel has it (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Goes to the program step by step as the kernel would, and looks at each step.
fn walk(program: &Path, whom: &Whom) -> Result<(), Refused> {
    let mut here = PathBuf::from("/");
    let mut above = look(&here)?;
    judge(&here, &above, whom)?;
    let mut ahead: VecDeque<OsString> = VecDeque::new();
    push_front(&mut ahead, program);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            here.pop();
            above = look(&here)?;
            continue;
        }
        here.push(&name);
        let found = look(&here)?;
        if found.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                let why = "too many symbolic links".to_owned();
                return Err(Refused::Unreachable { path: here, why });
            }
            if above.mode() & STICKY != 0 {
                owner(&here, &found, whom)?;
            }
            let target = fs::read_link(&here).map_err(|error| unreachable(&here, &error))?;
            here.pop();
            if target.is_absolute() {
                here = PathBuf::from("/");
                above = look(&here)?;
            }
            push_front(&mut ahead, &target);
            continue;
        }
        judge(&here, &found, whom)?;
        above = found;
    }
    if !above.is_file() {
        return Err(Refused::NoFile(here));
    }
    if !may_execute(&above, whom) {
        return Err(Refused::NotExecutable { path: here, user: whom.name.clone() });
    }
    Ok(())
}

fn push_front(ahead: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => ahead.push_front(name.to_owned()),
            Component::ParentDir => ahead.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

fn look(path: &Path) -> Result<Metadata, Refused> {
    fs::symlink_metadata(path).map_err(|error| unreachable(path, &error))
}

fn unreachable(path: &Path, error: &io::Error) -> Refused {
    Refused::Unreachable { path: path.to_owned(), why: error.to_string() }
}

const STICKY: u32 = 0o1000;
const WRITABLE_BY_GROUP: u32 = 0o020;
const WRITABLE_BY_OTHERS: u32 = 0o002;

fn judge(path: &Path, found: &Metadata, whom: &Whom) -> Result<(), Refused> {
    owner(path, found, whom)?;
    if found.is_dir() && found.mode() & STICKY != 0 {
        return Ok(());
    }
    let refused = |by: String, mode| Err(Refused::Writable { path: path.to_owned(), by, mode });
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return refused("others".to_owned(), "o-w");
    }
    if found.mode() & WRITABLE_BY_GROUP != 0 && found.gid() != 0 {
        return refused(format!("the group with id {}", found.gid()), "g-w");
    }
    Ok(())
}

fn owner(path: &Path, found: &Metadata, whom: &Whom) -> Result<(), Refused> {
    if found.uid() == 0 || found.uid() == whom.uid.as_raw() {
        return Ok(());
    }
    let (path, user) = (path.to_owned(), whom.name.clone());
    Err(Refused::Owner { path, owner: found.uid(), user })
}

fn may_execute(found: &Metadata, whom: &Whom) -> bool {
    let executable = if whom.uid.is_root() {
        0o111
    } else if found.uid() == whom.uid.as_raw() {
        0o100
    } else if found.gid() == whom.gid.as_raw() {
        0o010
    } else {
        0o001
    };
    found.mode() & executable != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_user_that_is_not_there_is_replaced_by_root() {
        let found = Whom { name: "u".to_owned(), uid: Uid::from_raw(7), gid: Gid::from_raw(8) };
        assert_eq!(or_root(Ok(found.clone())), Ok(found));
        let root = or_root(Err(Refused::NoUser("u".to_owned()))).expect("root");
        assert_eq!((root.name.as_str(), root.uid.as_raw(), root.gid.as_raw()), ("root", 0, 0));
        let lookup = Refused::Lookup { user: "u".to_owned(), why: "timed out".to_owned() };
        assert_eq!(or_root(Err(lookup.clone())), Err(lookup));
    }
}
