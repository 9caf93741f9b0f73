//! Looks through the flow table where it lies, in the kernel's memory: reading it entry by entry would take a call for each.
//!
//! It is mapped piece by piece and only while it is looked at, since what is mapped counts as the agent's own memory.

use std::{
    fmt, io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use forwarder_ebpf::{
    Flow, FlowStates, Grant, Pod, limits, map,
    table::{State, WAYS},
};
use nix::time::{ClockId, clock_gettime};

use super::StartError;
use crate::forward::connections::{Connection, Phase, Tally};

/// Buckets that are mapped at a time: 4 MiB of flows. As many states fill whole pages.
const PIECE: u32 = 4_096;

/// The flow table of a program, whichever agent's it is by now.
pub struct FlowTable {
    flows: MapData,
    states: MapData,
    pods: MapData,
    buckets: u32,
}

impl fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowTable").field("buckets", &self.buckets).finish_non_exhaustive()
    }
}

impl FlowTable {
    pub(super) fn take(ebpf: &mut Ebpf, buckets: u32) -> Result<Self, StartError> {
        let mut take = |name| match ebpf.take_map(name) {
            Some(Map::Array(data)) => Ok(data),
            _ => Err(StartError::Stale(name)),
        };
        Ok(Self { flows: take(map::FLOWS)?, states: take(map::FLOW_STATES)?, pods: take(map::PODS)?, buckets })
    }

    /// Counts all connections.
    ///
    /// # Errors
    /// If the kernel refuses to map the table.
    pub fn tally(&self) -> io::Result<Tally> {
        let mut tally = Tally::of(self.buckets * WAYS);
        self.look(|flow, phase, _| {
            tally.count(flow, phase);
            true
        })?;
        Ok(tally)
    }

    /// Connections that are wanted, as many as `most`; and whether there are more.
    ///
    /// # Errors
    /// If the kernel refuses to map the table.
    pub fn connections(
        &self,
        most: usize,
        wanted: impl Fn(&Connection) -> bool,
    ) -> io::Result<(Vec<Connection>, bool)> {
        let pods = self.pods()?;
        let (mut found, mut more) = (Vec::new(), false);
        self.look(|flow, phase, now| {
            let pod = pods.get(Grant::from_word(flow.grant).pod);
            let connection = Connection::of(flow, phase, pod.as_ref(), now);
            if wanted(&connection) {
                more = found.len() >= most;
                if !more {
                    found.push(connection);
                }
            }
            !more
        })?;
        Ok((found, more))
    }

    /// The pods to which connections lead, by their numbers.
    ///
    /// # Errors
    /// If the kernel refuses to map them.
    pub fn pods(&self) -> io::Result<Pods> {
        Piece::map(&self.pods, 0, limits::PODS).map(Pods)
    }

    /// Shows each connection, in no order, and the time in seconds, until the answer is no.
    fn look(&self, mut each: impl FnMut(&Flow, Phase, u32) -> bool) -> io::Result<()> {
        let now = u32::try_from(clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec() & i64::from(u32::MAX)).unwrap_or(0);
        for first in (0..self.buckets).step_by(PIECE as usize) {
            let count = PIECE.min(self.buckets - first);
            let states = Piece::<FlowStates>::map(&self.states, first, count)?;
            let mut flows = None;
            for place in 0..count * WAYS {
                let Some(phase) = Phase::of(states.state(place), now) else { continue };
                let flows = match &mut flows {
                    Some(flows) => flows,
                    // Where nobody lies there is nothing to be mapped.
                    none => none.insert(Piece::<Flow>::map(&self.flows, first * WAYS, count * WAYS)?),
                };
                if let Some(flow) = flows.get(place)
                    && !each(&flow, phase, now)
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The pods of a [`FlowTable`].
pub struct Pods(Piece<Pod>);

impl Pods {
    /// The pod of this number.
    #[must_use]
    pub fn get(&self, number: u16) -> Option<Pod> {
        self.0.get(number.into())
    }
}

/// Entries of an array in the kernel, one after another, mapped into memory to be read.
struct Piece<T> {
    at: NonNull<T>,
    count: u32,
}

impl<T: aya::Pod> Piece<T> {
    /// Maps `count` entries from `first` on, which begins a page.
    fn map(array: &MapData, first: u32, count: u32) -> io::Result<Self> {
        let offset = libc::off_t::from(first) * libc::off_t::try_from(size_of::<T>()).unwrap_or(0);
        let (length, fd) = (Self::bytes(count), array.fd().as_fd().as_raw_fd());
        // SAFETY: a new mapping, wherever the kernel puts it; of the array's own memory, of which it maps no more than there is.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, fd, offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(at.cast()).map(|at| Self { at, count }).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    fn bytes(count: u32) -> usize {
        count as usize * size_of::<T>()
    }

    /// A copy of an entry, which the kernel program may be changing: of parts that belong together, perhaps.
    fn get(&self, number: u32) -> Option<T> {
        // SAFETY: below the number of entries that are mapped, while this lives; any bytes are a value (`aya::Pod`).
        (number < self.count).then(|| unsafe { self.at.as_ptr().add(number as usize).read_volatile() })
    }
}

impl Piece<FlowStates> {
    /// The state of a place.
    fn state(&self, place: u32) -> State {
        if place / WAYS >= self.count {
            return State::FREE;
        }
        // SAFETY: an aligned word that is mapped, while this lives; whoever changes it changes it whole.
        let word = unsafe { &*self.at.as_ptr().cast::<AtomicU32>().add(place as usize) };
        State(word.load(Ordering::Relaxed))
    }
}

impl<T> Drop for Piece<T> {
    fn drop(&mut self) {
        // SAFETY: mapped with this address and length, and nothing refers to it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.count as usize * size_of::<T>()) };
    }
}
