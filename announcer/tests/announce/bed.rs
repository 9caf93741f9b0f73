//! Hosts as network namespaces on one switch, removed when the bed is dropped.

use std::{
    fmt::Display,
    fs::File,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use announcer::{
    announce::{self, Announcer},
    link::{self, LinkError, Links},
};
use nix::sched::{CloneFlags, setns};
use tokio::sync::{oneshot, watch};

/// Namespaces `cr<pid>x<n>{s,0,1,2}`: a switch and three hosts, each with `eth0`.
pub(crate) struct Bed {
    prefix: String,
}

impl Bed {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let bed = Self { prefix: format!("cr{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)) };
        let switch = bed.name("s");
        run(&format!("ip netns add {switch}"));
        bed.sh("s", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        bed.sh("s", "ip link add br0 type bridge mcast_snooping 0 forward_delay 0 && ip link set br0 up");
        for host in 0..3 {
            run(&format!("ip netns add {}", bed.name(host)));
            bed.sh(host, "sysctl -qw net.ipv6.conf.default.accept_dad=0 && ip link set lo up");
            bed.plug(host);
        }
        bed
    }

    /// Gives the host an `eth0` on the switch, addresses 10.77.0.(1+host)/24 and fd77::(1+host)/64.
    pub(crate) fn plug(&self, host: u8) {
        let (name, switch) = (self.name(host), self.name("s"));
        run(&format!(
            "ip link add eth0 netns {name} address {} type veth peer name port{host} netns {switch}",
            mac(host)
        ));
        self.sh("s", &format!("ip link set port{host} master br0 up"));
        self.sh(
            host,
            &format!("ip addr add 10.77.0.{0}/24 dev eth0 && ip addr add fd77::{0}/64 dev eth0 nodad", host + 1),
        );
        self.sh(host, "ip link set eth0 up");
    }

    pub(crate) fn name(&self, host: impl Display) -> String {
        format!("{}{host}", self.prefix)
    }

    /// Runs a shell line on a host; it must succeed.
    pub(crate) fn sh(&self, host: impl Display, line: &str) -> String {
        let output = self.try_sh(host, line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn try_sh(&self, host: impl Display, line: &str) -> Output {
        Command::new("ip").args(["netns", "exec", &self.name(host), "sh", "-c", line]).output().unwrap()
    }

    /// Makes the client's kernel ask for the address.
    pub(crate) fn resolve(&self, host: u8, vip: &str) {
        self.try_sh(host, &format!("bash -c 'echo > /dev/udp/{vip}/9'"));
    }

    /// The host's neighbour entry for the address.
    pub(crate) fn neighbour(&self, host: u8, vip: &str) -> String {
        self.sh(host, &format!("ip neigh show {vip} dev eth0"))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for host in ["0", "1", "2", "s"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).output();
        }
    }
}

/// The Ethernet address of a host's `eth0`.
pub(crate) fn mac(host: u8) -> String {
    format!("02:00:00:00:77:{host:02x}")
}

fn run(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
}

/// Waits until the condition holds; fails loudly if it does not within a generous time.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs `body` on a thread that lives in the host's namespace.
pub(crate) fn inside<T: Send + 'static>(
    bed: &Bed,
    host: u8,
    body: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let file = File::open(format!("/run/netns/{}", bed.name(host))).unwrap();
    std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        body()
    })
}

/// An announcer on a host.
pub(crate) struct Owner {
    pub(crate) announcer: Announcer,
    pub(crate) links: watch::Receiver<Arc<Links>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Owner {
    pub(crate) fn new(bed: &Bed, host: u8) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let thread = inside(bed, host, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let links = link::watch(Some(vec!["eth0".into()])).await.unwrap();
                let announcer = announce::start(links.clone(), Duration::from_secs(60)).unwrap();
                ready.send((announcer, links)).unwrap();
                let _ = stopped.await;
            });
        });
        let (announcer, links) = started.recv().unwrap();
        Self { announcer, links, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn set(&self, vips: &[&str], epoch: u64) {
        let interfaces = ["eth0".to_owned()].into();
        let wish = announce::Announcement { epoch, interfaces, ..announce::Announcement::default() };
        self.announcer.set(vips.iter().map(|vip| (vip.parse().unwrap(), wish.clone())).collect());
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The result of watching these interfaces on a host, once.
pub(crate) fn watch_once(bed: &Bed, host: u8, wanted: Option<Vec<String>>) -> Result<Links, LinkError> {
    inside(bed, host, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { link::watch(wanted).await.map(|links| (**links.borrow()).clone()) })
    })
    .join()
    .unwrap()
}
