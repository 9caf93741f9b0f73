//! The forwarder's programs, run by the kernel on packets that nobody sends (`BPF_PROG_TEST_RUN`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use aya::{
    maps::{MapData, MapInfo},
    programs::{ProgramFd, ProgramInfo, SchedClassifier, TcAttachType, loaded_programs},
};
use forwarder_ebpf::{Stage, program};

use crate::lan::Host;

/// Room for what a run leaves of its packet.
const ROOM: usize = 4096;

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Ingress,
    Egress,
    Xdp,
}

/// What a run gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) verdict: i32,
    pub(crate) frame: Vec<u8>,
}

/// The programs on a host's `eth0`.
pub(crate) struct Kernel {
    pub(crate) interface: u32,
    ingress: ProgramFd,
    egress: ProgramFd,
    xdp: ProgramFd,
    /// Maps of the ingress program, by their numbers.
    maps: Vec<u32>,
}

impl Kernel {
    /// Those of the agent with these pins.
    pub(crate) fn of(host: &Host, pins: &Path) -> Self {
        let interface = host.index("eth0");
        let tc = |direction, name, hook| {
            let attached = host.run(|| SchedClassifier::query_tcx("eth0", direction));
            match attached {
                Ok((_, programs)) => programs.into_iter().find(|info| info.name_as_str() == Some(name)).unwrap(),
                // A kernel without TCX.
                Err(_) => ProgramInfo::from_pin(pins.join(format!("filter_{interface}_{hook}"))).unwrap(),
            }
        };
        let ingress = tc(TcAttachType::Ingress, program::INGRESS, "ingress");
        Self {
            interface,
            maps: ingress.map_ids().unwrap().unwrap(),
            ingress: ingress.fd().unwrap(),
            egress: tc(TcAttachType::Egress, program::EGRESS, "egress").fd().unwrap(),
            xdp: xdp(host),
        }
    }

    /// A map of one of the ingress program's further parts: those of the same agent share some of its maps.
    pub(crate) fn map_of(&self, stage: Stage, name: &str) -> MapData {
        let shares = |ids: &Vec<u32>| ids.iter().any(|id| self.maps.contains(id));
        let is = |info: &ProgramInfo| info.name_as_str() == Some(stage.program());
        let parts = loaded_programs().flatten().filter(is);
        let ids = parts.filter_map(|info| info.map_ids().ok().flatten()).find(shares).unwrap();
        let named = |id: &u32| MapInfo::from_id(*id).unwrap().name_as_str() == Some(name);
        MapData::from_id(ids.into_iter().find(named).unwrap()).unwrap()
    }

    /// Runs a program on a frame that is at `eth0`; the calling thread must be in its namespace. `None` if the kernel takes no
    /// such frame, which is shorter than its headers say.
    pub(crate) fn run(&self, way: Way, frame: &[u8]) -> Option<Ran> {
        let (program, context) = match way {
            Way::Ingress => (&self.ingress, skb_context(self.interface)),
            Way::Egress => (&self.egress, skb_context(self.interface)),
            Way::Xdp => (&self.xdp, xdp_context(self.interface, frame.len())),
        };
        match test_run(program, frame, &context) {
            Ok(ran) => Some(ran),
            Err(_) if frame.len() < 14 + 40 => None,
            Err(error) => panic!("{way:?} does not run on {} bytes: {error:?}", frame.len()),
        }
    }
}

/// The XDP program on `eth0`, which only `ip` tells.
fn xdp(host: &Host) -> ProgramFd {
    let text = host.ip("-d link show eth0");
    let mut words = text.split_whitespace().skip_while(|word| *word != "prog/xdp").skip(2);
    let id: u32 = words.next().unwrap_or_else(|| panic!("no XDP program: {text}")).parse().unwrap();
    loaded_programs().map(Result::unwrap).find(|info| info.id() == id).unwrap().fd().unwrap()
}

/// The part of the kernel's `union bpf_attr` that is for this command.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u64,
}

fn test_run(program: &ProgramFd, frame: &[u8], context: &[u8]) -> io::Result<Ran> {
    const PROG_TEST_RUN: u32 = 10;
    let mut left = vec![0; ROOM];
    let mut attributes = Attributes {
        program: program.as_fd().as_raw_fd().cast_unsigned(),
        size_in: frame.len() as u32,
        size_out: ROOM as u32,
        data_in: frame.as_ptr() as u64,
        data_out: left.as_mut_ptr() as u64,
        repeat: 1,
        context_size_in: context.len() as u32,
        context_in: context.as_ptr() as u64,
        ..Attributes::default()
    };
    // SAFETY: the attributes are as long as stated, and so is what they point to, which lives until the call returns.
    let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, &raw mut attributes, size_of::<Attributes>()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    left.truncate(attributes.size_out as usize);
    Ok(Ran { verdict: attributes.verdict.cast_signed(), frame: left })
}

/// A `struct __sk_buff` up to its `ifindex`, which alone is said: the kernel refuses most else.
fn skb_context(interface: u32) -> Vec<u8> {
    let mut context = vec![0; 44];
    context[40..].copy_from_slice(&interface.to_ne_bytes());
    context
}

/// A `struct xdp_md`: where the data ends, and the interface.
fn xdp_context(interface: u32, length: usize) -> Vec<u8> {
    [0, length as u32, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}
