//! A network namespace as a guard: made with a unique name, entered by threads and processes, removed on Drop.
//!
//! The name appears in `/run/netns`, so that `ip -n NAME` works on it and a person can look inside.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::cleanup::{prepare, unique_name};

/// Where `ip netns` keeps its names.
pub(crate) const DIR: &str = "/run/netns";

/// A network namespace that lives as long as this value, or as what still runs in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: Arc<File>,
}

impl Netns {
    /// Makes an empty namespace (only a `lo` that is down), named `cr<pid>-<counter>-<label>`.
    ///
    /// # Errors
    /// Without root.
    pub fn new(label: &str) -> Result<Self> {
        prepare();
        let name = unique_name(label);
        let path = Path::new(DIR).join(&name);
        let made = std::thread::scope(|scope| scope.spawn(|| make(&path)).join());
        let file = made
            .map_err(|_| anyhow!("the thread that makes namespaces panicked"))?
            .with_context(|| format!("cannot make network namespace {name}: the testbed needs root"))?;
        Ok(Self { name, file: Arc::new(file) })
    }

    /// Its name for `ip -n` and `ip netns exec`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line that takes a person inside.
    #[must_use]
    pub fn enter_hint(&self) -> String {
        format!("ip netns exec {} bash", self.name)
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. A panic goes on in the caller.
    ///
    /// # Errors
    /// Those of `work`, or when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let outcome = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside; threads it starts are inside too.
    ///
    /// # Errors
    /// When the thread cannot be started. If it cannot enter the namespace it ends without calling `work`.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let inside = Self { name: String::new(), file: Arc::clone(&self.file) };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            inside.enter()?;
            Ok(work())
        });
        thread.with_context(|| format!("cannot start thread {name}"))
    }

    /// A command that will run inside, and die with this process.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let file = Arc::clone(&self.file);
        let mut command = Command::new(program);
        // SAFETY: only setns and prctl are called between fork and exec, both async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                setns(file.as_ref(), CloneFlags::CLONE_NEWNET)?;
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                Ok(())
            });
        }
        command
    }

    /// Runs a program inside with `stdin`, and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be run or fails: with the command and what it wrote to standard error.
    pub fn output(&self, program: &str, args: &[&str], stdin: &str) -> Result<String> {
        let mut command = self.command(program);
        command.args(args);
        feed(command, stdin).with_context(|| format!("in namespace {}", self.name))
    }

    /// Applies lines of `ip` commands in one go.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        feed(command, &(lines.join("\n") + "\n")).with_context(|| format!("ip commands {lines:#?}"))?;
        Ok(())
    }

    /// Sets kernel parameters: paths below `/proc/sys/net`, and values.
    ///
    /// # Errors
    /// When one does not exist or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (path, value) in settings {
                let path = Path::new("/proc/sys/net").join(path);
                fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))?;
            }
            Ok(())
        })
    }

    fn enter(&self) -> Result<()> {
        setns(self.file.as_ref(), CloneFlags::CLONE_NEWNET).context("cannot enter network namespace")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            remove(&Path::new(DIR).join(&self.name));
        }
    }
}

/// Unshares the calling thread's network and gives it a name; the thread must end afterwards.
fn make(path: &Path) -> Result<File> {
    share_directory()?;
    OpenOptions::new().write(true).create_new(true).open(path)?;
    let none: Option<&str> = None;
    let bound = unshare(CloneFlags::CLONE_NEWNET)
        .and_then(|()| mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none));
    if let Err(error) = bound {
        let _ = fs::remove_file(path);
        bail!(error);
    }
    Ok(File::open(path)?)
}

/// As `ip netns` does: a shared mount, so that removing a name removes it in all mount namespaces.
fn share_directory() -> Result<()> {
    static SHARED: Mutex<bool> = Mutex::new(false);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if *shared {
        return Ok(());
    }
    fs::create_dir_all(DIR)?;
    let none: Option<&str> = None;
    if mount(none, DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none).is_err() {
        mount(Some(DIR), DIR, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        mount(none, DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none)?;
    }
    *shared = true;
    Ok(())
}

/// Takes a name away. The namespace goes with the last thread, process or socket in it.
pub(crate) fn remove(path: &PathBuf) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("testbed: namespace {} stays behind: {error}", path.display());
    }
}

/// Runs a command with `stdin`, to its end.
pub(crate) fn feed(mut command: Command, stdin: &str) -> Result<String> {
    use std::{io::Write, process::Stdio};
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {program}: is it installed?"))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(stdin.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!("{program} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

type Job = (Command, Sender<io::Result<Child>>);

static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Starts a long-running child. The kernel sends the parent-death signal when the *thread* that forked ends, so
/// all such children are started by one thread that never does.
///
/// # Errors
/// When the program cannot be started.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let jobs = SPAWNER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, answer) = channel();
    let gone = |_| io::Error::other("the thread that starts children is gone");
    jobs.lock().unwrap_or_else(PoisonError::into_inner).send((command, sender)).map_err(|_| gone(()))?;
    let child = answer.recv().map_err(|_| gone(()))??;
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).push(child.id());
    Ok(child)
}

/// Forgets a child that was waited for: its process id may be given to another process.
pub(crate) fn reaped(id: u32) {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).retain(|child| *child != id);
}

/// Kills the children that have not been reaped.
pub(crate) fn kill_children() {
    for id in CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        if let Ok(id) = i32::try_from(id) {
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}
