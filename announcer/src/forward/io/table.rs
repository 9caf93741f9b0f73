//! Looks through the flow table where it lies, in the kernel's memory: reading it entry by entry would take a call for each.
//!
//! It is mapped piece by piece and only while it is looked at, since what is mapped counts as the agent's own memory.

use std::{fmt, io};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use forwarder_ebpf::{
    Flow, FlowStates, Grant, Pod, limits, map,
    table::{State, WAYS},
};

use super::{StartError, memory::Memory, seconds};
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
        Memory::piece::<Pod>(&self.pods, 0, limits::PODS).map(Pods)
    }

    /// Shows each connection, in no order, and the time in seconds, until the answer is no.
    fn look(&self, mut each: impl FnMut(&Flow, Phase, u32) -> bool) -> io::Result<()> {
        let now = seconds()?;
        for first in (0..self.buckets).step_by(PIECE as usize) {
            let count = PIECE.min(self.buckets - first);
            let states = Memory::piece::<FlowStates>(&self.states, first, count)?;
            let mut flows = None;
            for place in 0..count * WAYS {
                let Some(phase) = Phase::of(State(states.half_word(place)), now) else { continue };
                let flows = match &mut flows {
                    Some(flows) => flows,
                    // Where nobody lies there is nothing to be mapped.
                    none => none.insert(Memory::piece::<Flow>(&self.flows, first * WAYS, count * WAYS)?),
                };
                if let Some(flow) = flows.copy::<Flow>(place)
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
pub struct Pods(Memory);

impl Pods {
    /// The pod of this number.
    #[must_use]
    pub fn get(&self, number: u16) -> Option<Pod> {
        self.0.copy(number.into())
    }
}
