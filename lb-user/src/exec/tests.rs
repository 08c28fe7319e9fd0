//! Runs of real commands, as root: as others, too long, too much, not safe.
//!
//! Must not know: what commands are for.

use std::fs::{self, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Uid, mkdtemp};

use super::*;

/// A directory that goes with the test, directly in `/tmp`, which has the sticky bit.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// `name` is the test's.
    #[track_caller]
    pub(crate) fn new(name: &str) -> Self {
        assert!(
            Uid::effective().is_root(),
            "this test runs commands as other users: run it as root"
        );
        // A name of its own: a test that was killed leaves its folder behind.
        let path = mkdtemp(format!("/tmp/lb-exec-{name}-XXXXXX").as_str());
        let path = path.expect("a new directory");
        // Others have to reach what they run.
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a mode");
        Self(path)
    }

    /// A shell script of this body, owned by root.
    pub(crate) fn script(&self, name: &str, body: &str) -> String {
        let path = self.0.join(name);
        self.executable(name, &format!("#!/bin/sh\n{body}\n"));
        path.display().to_string()
    }

    /// A file with this text that anyone may run.
    fn executable(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        // Written by another process: were it open for writing here while another test forks, that
        // child would keep it open until its exec, and the kernel would not run it (ETXTBSY).
        let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
        let mut shell = std::process::Command::new("/bin/sh");
        let written = shell.args(["-c", write]).arg(&path).arg(text).status();
        assert!(written.expect("a shell").success(), "a script");
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn command(words: &[&str], user: &str) -> Command {
    Command {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        user: RunAs::User(user.to_owned()),
        environment: Vec::new(),
        timeout: Duration::from_secs(20),
        alone: false,
    }
}

/// A condition that must come true within ten seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process is there, a zombie included.
pub(crate) fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid.trim()).exists()
}

fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test(flavor = "current_thread")]
async fn the_exit_code_and_both_outputs_come_back_in_order() {
    let folder = Folder::new("code");
    let script = folder.script("s", "echo one; echo two >&2; echo $1; exit 7");
    let ran = command(&[&script, "a b"], "root").run().await;
    assert_eq!((ran.end, ran.output.as_str()), (End::Exited(7), "one\ntwo\na b\n"));
    let ran = command(&["/bin/true"], "root").run().await;
    assert!(ran.end.is_success(), "{}", ran.end);
    let ran = command(&[&folder.script("k", "kill -USR1 $$")], "root").run().await;
    assert_eq!(ran.end, End::Signalled(10));
}

#[tokio::test(flavor = "current_thread")]
async fn it_runs_as_the_other_user_and_in_no_other_group() {
    let ran = command(&["/usr/bin/id"], "nobody").run().await;
    let gid = Whom::find("nobody").expect("nobody").gid;
    assert!(ran.end.is_success(), "{ran:?}");
    assert!(ran.output.starts_with("uid=65534(nobody)"), "{ran:?}");
    let groups = ran.output.split("groups=").nth(1).expect("groups").trim().to_owned();
    assert!(groups.starts_with(&gid.to_string()) && !groups.contains(','), "{groups}");
}

#[tokio::test(flavor = "current_thread")]
async fn the_environment_is_clean_and_the_place_is_the_root() {
    let with = [("WHO".to_owned(), "lb".to_owned())].to_vec();
    let env = Command { environment: with, ..command(&["/usr/bin/env"], "nobody") };
    let ran = env.run().await;
    let mut lines: Vec<_> = ran.output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [format!("PATH={PATH}").as_str(), "WHO=lb"]);
    assert!(std::env::vars().count() > 1, "there is something to keep out");
    let ran = command(&["/bin/pwd"], "nobody").run().await;
    assert_eq!(ran.output, "/\n");
    let ran = command(&["/bin/cat"], "nobody").run().await;
    assert_eq!((ran.end, ran.output.as_str()), (End::Exited(0), ""), "there is nothing to read");
}

#[tokio::test(flavor = "current_thread")]
async fn it_has_no_descriptor_of_ours() {
    let folder = Folder::new("fds");
    // The shell's own: the script and, for `ls`, the directory are above 2.
    let list = folder.script("s", "for fd in /proc/$$/fd/*; do readlink $fd; done");
    let file = fs::File::create(folder.path("secret")).expect("a file");
    let ran = command(&[&list], "root").run().await;
    assert!(ran.output.contains("/dev/null") && !ran.output.contains("secret"), "{}", ran.output);
    // The planted fault: a descriptor that is not close-on-exec is seen.
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag");
    let ran = command(&[&list], "root").run().await;
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a flag");
    assert!(ran.output.contains("secret"), "descriptor {}: {}", file.as_raw_fd(), ran.output);
}

/// Runs this test by itself under a scheduling policy.
fn under(policy: &str) -> std::process::Output {
    std::process::Command::new("/usr/bin/chrt")
        .args([policy, if policy == "-o" { "0" } else { "1" }])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "exec::tests::no_command_has_a_real_time_policy", "--nocapture"])
        .env("LB_TEST_POLICY", policy)
        .output()
        .expect("chrt of util-linux")
}

#[tokio::test(flavor = "current_thread")]
async fn no_command_has_a_real_time_policy() {
    let folder = Folder::new("policy");
    let Ok(policy) = std::env::var("LB_TEST_POLICY") else {
        for policy in ["-o", "-r", "-f"] {
            let output = under(policy);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{policy}: {output:?}");
        }
        return;
    };
    let ran = command(&[&folder.script("s", "sleep 1; exit 5")], "nobody").run().await;
    let said = ran.end.to_string();
    match policy.as_str() {
        "-o" => assert_eq!(said, "exit code 5"),
        _ => assert!(said.contains("CPUSchedulingResetOnFork=yes"), "{policy}: {said}"),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_hanging_command_is_killed_with_its_children() {
    let folder = Folder::new("hang");
    let pids = folder.path("pids");
    let body = format!(
        "trap '' TERM\nsleep 600 &\necho $! > {0}\n(trap '' TERM; sleep 601) &\necho $! >> {0}\n\
         echo $$ >> {0}\nwait; wait",
        pids.display()
    );
    let script = folder.script("s", &body);
    let hanging = Command { timeout: Duration::from_secs(1), ..command(&[&script], "root") };
    let ran = hanging.run().await;
    assert_eq!(ran.end, End::TimedOut);
    assert!(ran.duration >= Duration::from_secs(1), "{:?}", ran.duration);
    assert!(ran.duration < Duration::from_secs(10), "{:?}", ran.duration);
    let pids = fs::read_to_string(pids).expect("pids");
    assert_eq!(pids.lines().count(), 3, "it had begun: {pids:?}");
    for pid in pids.lines() {
        eventually("the group is gone", || !is_running(pid)).await;
    }
    assert!(!exists(pids.lines().last().expect("leader")), "the leader is reaped");
}

#[tokio::test(flavor = "current_thread")]
async fn a_command_that_heeds_sigterm_has_its_time_to() {
    let folder = Folder::new("term");
    let script = folder.script("s", "trap 'echo bye; exit 0' TERM\necho on\nsleep 600 & wait");
    let hanging = Command { timeout: Duration::from_secs(1), ..command(&[&script], "nobody") };
    let ran = hanging.run().await;
    assert_eq!((ran.end, ran.output.as_str()), (End::TimedOut, "on\nbye\n"));
    // `bye` says that it was not killed; this, that nothing waits for its children.
    assert!(ran.duration < Duration::from_secs(4), "{:?}", ran.duration);
}

#[tokio::test(flavor = "current_thread")]
async fn a_run_that_nobody_waits_for_is_killed_and_reaped() {
    let folder = Folder::new("drop");
    let pids = folder.path("pids");
    let body = format!(
        "sleep 600 &\necho $! > {0}\necho $$ > {0}.new\nmv {0}.new {0}.2\nwait",
        pids.display()
    );
    let script = folder.script("s", &body);
    let hanging = command(&[&script], "root");
    let begun = folder.path("pids.2");
    tokio::select! {
        ran = hanging.run() => panic!("it ended: {ran:?}"),
        () = eventually("it has begun", || begun.exists()) => {}
    }
    let child = fs::read_to_string(pids).expect("pid");
    let leader = fs::read_to_string(begun).expect("pid");
    eventually("the child is gone", || !is_running(&child)).await;
    eventually("the leader is reaped", || !exists(&leader)).await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_stays_behind_is_killed_only_when_the_command_should_be_alone() {
    let folder = Folder::new("alone");
    let script = folder.script("s", "sleep 600 >/dev/null 2>&1 &\necho $!");
    let ran = command(&[&script], "root").run().await;
    let pid = ran.output.trim().to_owned();
    assert!(ran.end.is_success() && is_running(&pid), "{ran:?}");
    let number = nix::unistd::Pid::from_raw(pid.parse().expect("a pid"));
    nix::sys::signal::kill(number, nix::sys::signal::Signal::SIGKILL).expect("ours");
    let ran = Command { alone: true, ..command(&[&script], "root") }.run().await;
    let pid = ran.output.trim().to_owned();
    assert!(ran.end.is_success(), "{ran:?}");
    eventually("it is killed", || !is_running(&pid)).await;
}

#[tokio::test(flavor = "current_thread")]
async fn output_is_bounded_and_the_writer_is_not_stopped() {
    let folder = Folder::new("much");
    let script = folder.script("s", "head -c 3000000 /dev/zero | tr '\\0' x; exit 3");
    let ran = command(&[&script], "nobody").run().await;
    assert_eq!((ran.end, ran.output.len()), (End::Exited(3), MAX_OUTPUT));
    let ran = command(&[&script], "nobody").run_keeping(2_500_000).await;
    assert_eq!((ran.end, ran.output.len()), (End::Exited(3), 2_500_000));
}

/// What the check says of a script, with the folder's path left out.
#[track_caller]
fn said(folder: &Folder, words: &[&str], user: &str) -> String {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let user = RunAs::User(user.to_owned());
    let said = check(&words, &user).map_or_else(|why| why.to_string(), |_| "ok".to_owned());
    said.replace(&folder.0.display().to_string(), "DIR")
}

#[test]
fn what_others_could_change_is_refused() {
    let folder = Folder::new("check");
    let script = folder.script("s", "");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    };
    let own = |path: &Path, uid, gid| chown(path, Some(uid), Some(gid)).expect("an owner");
    let path = PathBuf::from(&script);
    assert_eq!(said(&folder, &[&script], "root"), "ok");
    assert_eq!(said(&folder, &[&script], "nobody"), "ok");
    mode(&path, 0o757);
    assert_eq!(said(&folder, &[&script], "root"), "DIR/s can be written by others: chmod o-w");
    assert_eq!(said(&folder, &[&script], "nobody"), "DIR/s can be written by others: chmod o-w");
    mode(&path, 0o775);
    assert_eq!(said(&folder, &[&script], "root"), "ok");
    own(&path, 0, 1);
    mode(&path, 0o775);
    let expected = "DIR/s can be written by the group with id 1: chmod g-w";
    assert_eq!(said(&folder, &[&script], "root"), expected);
    mode(&path, 0o644);
    assert_eq!(said(&folder, &[&script], "root"), "DIR/s is not executable for root: chmod +x");
    mode(&path, 0o744);
    assert_eq!(said(&folder, &[&script], "nobody"), "DIR/s is not executable for nobody: chmod +x");
    mode(&path, 0o755);
    own(&path, 65534, 0);
    assert_eq!(said(&folder, &[&script], "nobody"), "ok");
    let expected = "DIR/s belongs to user id 65534, who could put something else in its place: \
                    chown it to root";
    assert_eq!(said(&folder, &[&script], "root"), expected);
    own(&path, 0, 0);
    mode(&folder.0, 0o777);
    assert_eq!(said(&folder, &[&script], "root"), "DIR can be written by others: chmod o-w");
    mode(&folder.0, 0o1777);
    assert_eq!(said(&folder, &[&script], "root"), "ok");
}

#[test]
fn links_are_followed_and_what_they_lie_in_is_looked_at() {
    let folder = Folder::new("links");
    let script = folder.script("s", "");
    let (open, link) = (folder.path("open"), folder.path("open/link"));
    fs::create_dir(&open).expect("a directory");
    symlink("../s", &link).expect("a link");
    let link = link.display().to_string();
    assert_eq!(said(&folder, &[&link], "root"), "ok");
    fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("a mode");
    assert_eq!(said(&folder, &[&link], "root"), "DIR/open can be written by others: chmod o-w");
    fs::set_permissions(&open, Permissions::from_mode(0o1777)).expect("a mode");
    assert_eq!(said(&folder, &[&link], "root"), "ok");
    let stranger = folder.path("open/stranger");
    symlink(&script, &stranger).expect("a link");
    std::os::unix::fs::lchown(&stranger, Some(1), Some(1)).expect("an owner");
    let stranger = stranger.display().to_string();
    assert!(
        said(&folder, &[&stranger], "root").starts_with("DIR/open/stranger belongs to user id 1")
    );
    let circle = folder.path("circle");
    symlink("circle", &circle).expect("a link");
    let circle = circle.display().to_string();
    assert_eq!(
        said(&folder, &[&circle], "root"),
        "DIR/circle: too many symbolic links: put that right or name another program"
    );
}

#[test]
fn what_cannot_run_is_said_with_its_reason() {
    let folder = Folder::new("said");
    let rows: [(&[&str], &str, &str); 7] = [
        (&[], "root", "the command is empty: name a program"),
        (&["true"], "root", "\"true\" is no absolute path: write the program's whole path"),
        (&["/bin/true", "\0"], "root", "the command's word \"\\0\" holds a NUL byte: leave it out"),
        (
            &["/bin/true"],
            "no such",
            "there is no user \"no such\" on this host: create it or name another one",
        ),
        (
            &["/nowhere/x"],
            "root",
            "/nowhere: No such file or directory (os error 2): put that right or name another program",
        ),
        (&["/tmp"], "root", "/tmp is no regular file: name the program itself"),
        (&["/bin/../bin/true"], "nobody", "ok"),
    ];
    for (words, user, expected) in rows {
        assert_eq!(said(&folder, words, user), expected);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_refused_command_does_not_run() {
    let folder = Folder::new("refused");
    let mark = folder.path("mark");
    let script = folder.script("s", &format!("echo > {}", mark.display()));
    fs::set_permissions(&script, Permissions::from_mode(0o757)).expect("a mode");
    let ran = command(&[&script], "root").run().await;
    assert!(matches!(ran.end, End::Refused(Refused::Writable { .. })), "{ran:?}");
    assert!(!mark.exists());
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("a mode");
    assert!(command(&[&script], "root").run().await.end.is_success());
    assert!(mark.exists(), "the same script runs when it is safe");
    folder.executable("text", "#!/nowhere/sh\n");
    let text = folder.path("text").display().to_string();
    let said = command(&[&text], "nobody").run().await.end.to_string();
    assert!(said.contains("the interpreter in its first line is not there"), "{said}");
}

#[test]
fn the_last_line_is_the_last_that_says_something() {
    let ran = |output: &str| Ran {
        end: End::TimedOut,
        duration: Duration::ZERO,
        output: output.to_owned(),
    };
    assert_eq!(ran("one\n two \u{1b}[0m\n\n").last_line(), "two [0m");
    assert_eq!(ran("").last_line(), "");
}
