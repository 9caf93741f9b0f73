//! A crowd of connections: thousands that are mostly silent, each with a record now and then, until all are exercised once more.
//!
//! A process of its own holds them (`src/bin/crowd.rs` runs [`hold`]): pods are threads of this one, and a process may have only so
//! many files. One thread serves them all. For connections that are never silent, and for how long an outage was, there is
//! [`crate::longlived`].

use std::{
    collections::BTreeSet,
    io::{self, BufRead, Write},
    net::SocketAddr,
    process::{Child, ChildStdout, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    runtime::Builder,
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    agent::binary,
    longlived::{Ended, Fate},
    netns::Netns,
    traffic::Answer,
};

/// Connections that are opened at once: fewer than a pod's queue holds.
const OPENING: usize = 64;
/// Files that a process may need beside its connections.
const OTHER_FILES: usize = 512;
/// How long the opening of one may take, its first echo included.
const OPEN: Duration = Duration::from_secs(20);

/// What the connections are to do.
#[derive(Debug, Clone)]
enum Order {
    /// A record each period.
    GoOn,
    /// A last record.
    Finish(Arc<Finish>),
}

/// How it ends: for so long a last echo is waited for, but not on connections to these pods.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Finish {
    patience: Duration,
    hopeless: BTreeSet<String>,
}

/// Open connections.
#[derive(Debug)]
pub struct Crowd {
    pods: Vec<String>,
    process: Child,
    output: io::BufReader<ChildStdout>,
}

impl Crowd {
    /// Opens `count` connections from `ns`; each has had its first echo on return. From then on each sends a record a `period`,
    /// not all at once.
    ///
    /// # Errors
    /// When one cannot be opened, or a process may not have so many files.
    pub fn open(ns: &Netns, target: SocketAddr, count: usize, period: Duration) -> Result<Self> {
        // For the pods.
        allow_files(count)?;
        let arguments = [target.to_string(), count.to_string(), period.as_millis().to_string()];
        let mut command = ns.command(binary("crowd")?);
        let mut process = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take().context("no output")?;
        let mut crowd = Self { pods: Vec::new(), process, output: io::BufReader::new(output) };
        crowd.pods = crowd.read().with_context(|| format!("no crowd at {target}"))?;
        Ok(crowd)
    }

    /// The pods at the other ends.
    #[must_use]
    pub fn pods(&self) -> &[String] {
        &self.pods
    }

    /// Exercises each connection once more, and tells what became of it: an echo is waited for that long. Those to pods that
    /// `hopeless` names are not waited for, and count as hung.
    ///
    /// # Errors
    /// When their process has failed.
    pub fn finish(mut self, patience: Duration, hopeless: impl Fn(&str) -> bool) -> Result<Vec<Ended>> {
        let hopeless = self.pods.iter().filter(|pod| hopeless(pod)).cloned().collect();
        let mut input = self.process.stdin.take().context("no input")?;
        writeln!(input, "{}", serde_json::to_string(&Finish { patience, hopeless })?)?;
        self.read()
    }

    fn read<T: for<'a> Deserialize<'a>>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("the crowd has ended")
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Opens connections and holds them until a line on standard input says that it is enough. Prints a line with the pods, and then one
/// with what became of each connection.
///
/// # Errors
/// When one cannot be opened, or whoever asked is gone.
pub fn hold(target: SocketAddr, count: usize, period: Duration) -> Result<()> {
    allow_files(count)?;
    let (order, orders) = watch::channel(Order::GoOn);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended: Vec<Ended> = runtime.block_on(async {
        let talks = open(target, count).await?;
        println!("{}", serde_json::to_string(&talks.iter().map(|talk| &talk.ended.pod).collect::<Vec<_>>())?);
        std::thread::spawn(move || await_finish(&order));
        let start = Instant::now();
        let mut tasks = Vec::with_capacity(count);
        for (talk, number) in talks.into_iter().zip(0_u32..) {
            let first = start + period * number / u32::try_from(count)?;
            tasks.push(tokio::spawn(talk.go_on(first, period, orders.clone())));
        }
        let mut ended = Vec::with_capacity(count);
        for task in tasks {
            ended.push(task.await?);
        }
        anyhow::Ok(ended)
    })?;
    println!("{}", serde_json::to_string(&ended)?);
    Ok(())
}

/// Reads the order to finish. If it never comes, its sender goes, which ends the connections as well.
fn await_finish(order: &watch::Sender<Order>) {
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line).ok();
    if let Some(finish) = read.and_then(|_| serde_json::from_str(&line).ok()) {
        order.send_replace(Order::Finish(Arc::new(finish)));
    }
}

async fn open(target: SocketAddr, count: usize) -> Result<Vec<Talk>> {
    let permits = Arc::new(Semaphore::new(OPENING));
    let (sender, mut talks) = mpsc::channel(OPENING);
    for _ in 0..count {
        let (permits, sender) = (Arc::clone(&permits), sender.clone());
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            let talk = timeout(OPEN, Talk::open(target)).await;
            let _ = sender.send(talk.unwrap_or_else(|_| Err(anyhow!("no echo in {OPEN:?}")))).await;
        });
    }
    drop(sender);
    let mut all = Vec::with_capacity(count);
    while let Some(talk) = talks.recv().await {
        let number = all.len() + 1;
        all.push(talk.with_context(|| format!("connection {number} of {count} to {target}"))?);
    }
    Ok(all)
}

struct Talk {
    stream: BufReader<TcpStream>,
    sent: u64,
    ended: Ended,
}

impl Talk {
    async fn open(target: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let ended = Ended { pod: String::new(), fate: Fate::Survived, records: 0, longest_pause: Duration::ZERO };
        let mut talk = Self { stream: BufReader::new(stream), sent: 0, ended };
        talk.ended.fate = talk.exchange().await;
        ensure!(talk.ended.fate == Fate::Survived, "{:?}", talk.ended.fate);
        Ok(talk)
    }

    /// Sends records until the end.
    async fn go_on(mut self, mut due: Instant, period: Duration, mut orders: watch::Receiver<Order>) -> Ended {
        let mut ends = orders.clone();
        while self.ended.fate == Fate::Survived {
            tokio::select! {
                () = sleep_until(due) => {}
                // The end, or nobody is there who could order it.
                _ = orders.changed() => break,
            }
            due += period;
            self.exchange_or_give_up(&mut ends).await;
        }
        if self.ended.fate == Fate::Survived {
            self.exchange_or_give_up(&mut ends).await;
        }
        self.ended
    }

    async fn exchange_or_give_up(&mut self, orders: &mut watch::Receiver<Order>) {
        let pod = self.ended.pod.clone();
        self.ended.fate = tokio::select! {
            fate = self.exchange() => fate,
            () = gives_up(orders, &pod) => Fate::Hung,
        };
    }

    /// A record and its echo.
    async fn exchange(&mut self) -> Fate {
        self.sent += 1;
        let begin = Instant::now();
        match self.echo().await {
            Ok(line) => {
                let answer = Answer::parse(&line).filter(|answer| answer.text == format!("record {}", self.sent));
                let pod = answer.map(|answer| answer.pod).unwrap_or_default();
                if pod.is_empty() || !self.ended.pod.is_empty() && pod != self.ended.pod {
                    return Fate::Broken(format!("wrong echo {line:?}"));
                }
                self.ended.pod = pod;
                self.ended.records += 1;
                self.ended.longest_pause = self.ended.longest_pause.max(begin.elapsed());
                Fate::Survived
            }
            Err(error) => Fate::Broken(error.to_string()),
        }
    }

    async fn echo(&mut self) -> io::Result<String> {
        self.stream.write_all(format!("record {}\n", self.sent).as_bytes()).await?;
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }
}

/// Raises this process's limit of open files, so that it may have so many connections.
fn allow_files(connections: usize) -> Result<()> {
    let wanted = libc::rlim_t::try_from(connections + OTHER_FILES)?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives until the call returns.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    ensure!(read == 0, io::Error::last_os_error());
    let raised = libc::rlimit { rlim_cur: limit.rlim_cur.max(wanted), rlim_max: limit.rlim_max.max(wanted) };
    // SAFETY: as above.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
    let allowed = limit.rlim_max;
    ensure!(set == 0, "{connections} connections: {allowed} open files are allowed (ulimit -Hn), {wanted} needed");
    Ok(())
}

/// Ends when an echo from this pod is waited for no more.
async fn gives_up(orders: &mut watch::Receiver<Order>, pod: &str) {
    let order = orders.wait_for(|order| matches!(order, Order::Finish(_))).await.map(|order| order.clone());
    if let Ok(Order::Finish(finish)) = order
        && !finish.hopeless.contains(pod)
    {
        tokio::time::sleep(finish.patience).await;
    }
}
