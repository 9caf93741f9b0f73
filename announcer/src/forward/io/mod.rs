//! The forwarder as the agent holds it: loads the program, attaches it, carries out plans, reads counters.
//!
//! Every start loads the program with maps of its own, fills them with the first [`Forwarder::apply`], and only then
//! takes the place of the predecessor's program on each uplink, which the kernel does at once. Only the flows are
//! shared with the predecessor (pinned), or taken over from it (`inherit`). So an agent that is killed leaves forwarding as it was, and one that is
//! started or upgraded never shows the kernel half-filled tables; its first `apply` should therefore come once the
//! membership has caught up.

mod accounts;
mod bpffs;
mod driver;
mod flow_pins;
mod inherit;
mod load;
mod maps;
mod memory;
mod nat;
mod pins;
mod stages;
mod table;
mod xdp;

use std::{collections::BTreeMap, fmt, io, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Instant};

use forwarder_ebpf::{AFFINITIES_ADDED, DropReason, Eviction, Message, SECOND_HOPS, ShadowEvent, limits};
use nix::time::{ClockId, clock_gettime};

use self::{load::Kernel, maps::Maps};
use crate::{
    announce::HookMaps,
    forward::{
        clients::Clients,
        connections::{Active, Tally},
        counters::Counters,
        plan::Limit,
        tables::Tables,
        wanted::Wanted,
    },
    shadow,
};

pub use self::{load::detach_all, table::FlowTable};

/// How packets are carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// The best this kernel has.
    #[default]
    Auto,
    /// XDP for what is handed on, on any driver that takes it, and TC for the rest.
    Xdp,
    /// TC (TCX where the kernel has it, else clsact).
    Tc,
    /// Not at all: the agent announces, something else forwards.
    Off,
}

/// What a forwarder needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// How packets are carried.
    pub mode: Mode,
    /// Where links and flows are pinned; on a BPF file system, or where one may be mounted.
    pub pin_dir: PathBuf,
    /// How many connections to this node's pods are remembered; see [`forwarder_ebpf::limits::FLOWS`].
    pub flows: u32,
    /// How many rows of tables there is room for; see [`forwarder_ebpf::limits::ROWS`].
    pub rows: u32,
    /// The ports from which connections to translated backends come; `None`: those that this machine's own do not get.
    pub nat_ports: Option<RangeInclusive<u16>>,
}

/// Why the forwarder did not start. Nothing was attached; a predecessor's program, if any, goes on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refused.
    #[error(
        "no permission to load eBPF programs: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON \
         (forwarder.mode off announces only)"
    )]
    Permission(#[source] io::Error),
    /// There is no BPF file system to pin to.
    #[error("{path} is on no BPF file system and none could be mounted there: mount -t bpf bpf /sys/fs/bpf")]
    NoBpffs {
        /// The pin directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The mode is off, but a predecessor's program could not be removed.
    #[error("what a former agent pinned below {path} could not be removed: run `crier cleanup` as root")]
    Detach {
        /// The pin directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The object could not be loaded.
    #[error("the kernel does not accept Crier's eBPF program (Linux 6.1 or newer is needed)")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program could not be loaded.
    #[error("the kernel does not accept the eBPF program {name} (Linux 6.1 or newer is needed)")]
    Program {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The object has no such map or program: it does not belong to this agent.
    #[error("the embedded eBPF object has no {0}: it is stale, run hack/build-ebpf")]
    Stale(&'static str),
    /// A map is not what the agent expects.
    #[error("the map {name} cannot be used; if it is pinned by another version, `crier cleanup` removes it")]
    Map {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<aya::maps::MapError>,
    },
}

/// Why wanted tables did not get into the kernel. What was there before goes on; the next `apply` starts afresh.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A map refused a write.
    #[error("a write to the map {map} failed")]
    Write {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// After a failed write the program could not be loaded anew.
    #[error("the forwarder could not be loaded again")]
    Restart(#[from] StartError),
    /// What must outlive the agent could not be pinned, so nothing is attached anew.
    #[error("what must outlive the agent could not be pinned at {path}")]
    Keep {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Box<aya::pin::PinError>,
    },
    /// A program could not be attached. All others are.
    #[error("the eBPF program could not be attached to {interface}: is the interface there?")]
    Attach {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A link could not be pinned, so it is not attached.
    #[error("the program on {interface} could not be pinned to {path}")]
    Pin {
        /// The interface's name.
        interface: String,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Box<aya::pin::PinError>,
    },
}

/// What an `apply` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Writes to maps.
    pub writes: usize,
    /// Interfaces attached to by this call.
    pub attached: Vec<String>,
    /// What did not fit, how many of each: to be counted and logged. [`Limit::Flows`] only by the call that took them over.
    pub limits: BTreeMap<Limit, u32>,
    /// When another `apply` with the same tables finds room that is resting now.
    pub again: Option<Instant>,
}

/// What the status page says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// `xdp` if any interface has it, `tc` or `off`.
    pub mode: &'static str,
    /// How TC is attached: `tcx` or `clsact`; empty while it is not.
    pub hook: &'static str,
    /// The interfaces attached to, sorted.
    pub interfaces: Vec<String>,
    /// By interface: `xdp`, or why it has none.
    pub ways: BTreeMap<String, String>,
}

/// The running forwarder. Dropping it leaves the programs where they are.
pub struct Forwarder {
    options: Options,
    running: Option<Running>,
}

struct Running {
    kernel: Kernel,
    maps: Maps,
    tables: Tables,
    /// From when the map is this program's alone.
    clients: Option<Clients>,
    table: Arc<FlowTable>,
    broken: bool,
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("options", &self.options).field("info", &self.info()).finish()
    }
}

impl Running {
    fn load(options: &Options) -> Result<Self, StartError> {
        let (kernel, maps, table) = Kernel::load(options)?;
        let inherits = kernel.inherits_flows;
        let tables = if inherits { Tables::inheriting(kernel.translates) } else { Tables::default() };
        let tables = tables.with_rows(options.rows);
        Ok(Self { kernel, maps, tables, clients: None, table: Arc::new(table), broken: false })
    }

    /// Begins the books of clients with what a predecessor left in the map. What is added while it is looked at is in none of
    /// them: rather that than a loss that was none.
    fn count_clients(&mut self) -> Result<Clients, aya::maps::MapError> {
        let (_, present) = self.maps.forget_clients(seconds().map_err(io::Error::from)?)?;
        Ok(Clients::new(limits::AFFINITIES, present, self.maps.event(AFFINITIES_ADDED)?))
    }
}

impl Forwarder {
    /// Loads the program. Attaches nothing yet: the first [`Forwarder::apply`] does. In [`Mode::Off`], removes what a
    /// predecessor left.
    ///
    /// # Errors
    /// See [`StartError`]; each says what to do.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let running = match options.mode {
            Mode::Off => {
                let failed = |source| StartError::Detach { path: options.pin_dir.clone(), source };
                detach_all(&options.pin_dir).map_err(failed)?;
                None
            }
            Mode::Auto | Mode::Xdp | Mode::Tc => Some(Running::load(&options)?),
        };
        Ok(Self { options, running })
    }

    /// Makes the kernel's tables what is wanted, and attaches to uplinks that are new. Does only what has changed.
    ///
    /// # Errors
    /// See [`ApplyError`]. Calling again is always right.
    pub fn apply(&mut self, wanted: &Wanted, now: Instant) -> Result<Applied, ApplyError> {
        let Some(running) = &mut self.running else { return Ok(Applied::default()) };
        if running.broken {
            *running = Running::load(&self.options)?;
        }
        let plan = running.tables.plan(wanted, now);
        running.broken = true;
        for write in &plan.writes {
            running.maps.write(write)?;
        }
        running.broken = false;
        let attached = running.kernel.attach(&wanted.uplinks)?;
        if running.clients.is_none() {
            // Another try with the next call.
            running.clients = running.count_clients().ok();
        }
        let mut limits = plan.limits;
        let left_out = std::mem::take(&mut running.kernel.left_out);
        if left_out > 0 {
            limits.insert(Limit::Flows, left_out);
        }
        Ok(Applied { writes: plan.writes.len(), attached, limits, again: running.tables.next_wake() })
    }

    /// What was counted. All zero while the mode is off.
    ///
    /// # Errors
    /// If the kernel refuses a read.
    pub fn counters(&self) -> Result<Counters, aya::maps::MapError> {
        let mut counters =
            Counters { drops: DropReason::ALL.into_iter().map(|reason| (reason, 0)).collect(), ..Counters::default() };
        let Some(running) = &self.running else { return Ok(counters) };
        for (reason, count) in &mut counters.drops {
            *count = running.maps.event(*reason as u32)?;
        }
        counters.second_hops = running.maps.event(SECOND_HOPS)?;
        for event in ShadowEvent::ALL {
            counters.shadow.insert(event, running.maps.event(event as u32)?);
        }
        for message in Message::ALL {
            counters.messages.insert(message, running.maps.event(message as u32)?);
        }
        for eviction in Eviction::ALL {
            counters.evictions.insert(eviction, running.maps.event(eviction as u32)?);
        }
        running.maps.accounts.read(&running.tables, &mut counters)?;
        Ok(counters)
    }

    /// Makes room for clients of services with affinity, when it is getting scarce: those whose time is over are forgotten.
    /// How many more have been pushed out before theirs was.
    ///
    /// # Errors
    /// If the kernel refuses to read or change the map.
    pub fn forget_clients(&mut self, now: Instant) -> Result<u64, aya::maps::MapError> {
        let Some(Running { maps, clients: Some(clients), .. }) = &mut self.running else { return Ok(0) };
        let added = maps.event(AFFINITIES_ADDED)?;
        if !clients.is_due(added, now) {
            return Ok(0);
        }
        let (removed, left) = maps.forget_clients(seconds().map_err(io::Error::from)?)?;
        Ok(clients.looked(added, removed, left, now))
    }

    /// The connections of this node's pods, to be looked at by whoever has the time: with many it takes a while.
    #[must_use]
    pub fn flow_table(&self) -> Option<Arc<FlowTable>> {
        self.running.as_ref().map(|running| running.table.clone())
    }

    /// Whose the connections are that were counted.
    ///
    /// # Errors
    /// If the kernel refuses to show the pods.
    pub fn active(&self, tally: &Tally) -> io::Result<Active> {
        let Some(running) = &self.running else { return Ok(Active::default()) };
        let pods = running.table.pods()?;
        Ok(tally.active(|socket| running.tables.labels(socket), |number| pods.get(number)))
    }

    /// The maps by which the shadow standby works, once for each program that is loaded; only one that is attached
    /// is worth taking them from.
    pub fn take_shadow(&mut self) -> Option<shadow::Maps> {
        self.running.as_mut().and_then(|running| running.maps.shadow.take())
    }

    /// The maps by which the hooks answer in the announcer's stead, in the same way.
    pub fn take_hooks(&mut self) -> Option<HookMaps> {
        self.running.as_mut().and_then(|running| running.maps.hooks.take())
    }

    /// Whether a predecessor's program carries traffic until the first [`Forwarder::apply`] takes its place.
    #[must_use]
    pub fn inherited(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.kernel.inherits())
    }

    /// What the status page says; before the first [`Forwarder::apply`], what a predecessor is attached to.
    #[must_use]
    pub fn info(&self) -> Info {
        match &self.running {
            Some(running) => running.kernel.info(),
            None => Info { mode: "off", ..Info::default() },
        }
    }
}

/// The clock that flows and clients are remembered by, as the programs count it.
fn seconds() -> nix::Result<u32> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec() as u32)
}
