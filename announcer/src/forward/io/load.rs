//! Loads the programs, and puts them on the uplinks in the place of a predecessor's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, mem,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{
        ProgramError, ProgramFd, SchedClassifier, TcAttachType,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use forwarder_ebpf::{OBJECT, constant, limits, map, program, table::WAYS};

use super::{
    ApplyError, FlowTable, Info, Maps, Options, StartError, bpffs, flow_pins,
    inherit::{self, Inheritance},
    nat, pins,
    stages::{self, Stages},
    xdp::Accelerator,
};
use crate::forward::wanted::Uplink;

/// Priority and handle of the clsact filters, where the kernel has no TCX: fixed, so that a successor replaces them.
const PRIORITY: u16 = 0x0c71;
const HANDLE: TcHandle = TcHandle::new(0, 1);

const XDP_HOOK: &str = "xdp";

/// The two hooks of an uplink.
const HOOKS: [(TcAttachType, &str, &str); 2] =
    [(TcAttachType::Ingress, program::INGRESS, "ingress"), (TcAttachType::Egress, program::EGRESS, "egress")];

/// The loaded programs.
pub(super) struct Kernel {
    ebpf: Ebpf,
    pin_dir: PathBuf,
    /// By interface index: its name.
    attached: BTreeMap<u32, String>,
    /// The pins of the programs that are on links.
    programs: BTreeSet<String>,
    /// The kernel has no TCX: the first attachment shows it, or a predecessor's.
    clsact: bool,
    /// What a predecessor attached to; `None` once this agent has attached.
    inherited: Option<Vec<String>>,
    accelerator: Accelerator,
    stages: Stages,
    /// The names of this agent's flows' pins end so.
    flow_pins: String,
    /// A predecessor's flows that are to be taken over, once this agent's programs are attached.
    inheritance: Option<Inheritance>,
    /// How many of them found no room, until it is reported.
    pub(super) left_out: u32,
    /// Flows are here that a predecessor's left, or will be.
    pub(super) inherits_flows: bool,
    /// There may be some to translated backends among them.
    pub(super) translates: bool,
}

impl Kernel {
    /// Loads the object with maps of its own, but the flows of a predecessor with the same layout and as many. Those of others
    /// are taken over when its programs are replaced.
    pub(super) fn load(options: &Options) -> Result<(Self, Maps, FlowTable), StartError> {
        let pin_dir = &options.pin_dir;
        bpffs::prepare(pin_dir)?;
        let buckets = options.flows.clamp(limits::MIN_FLOWS, limits::MAX_FLOWS).div_ceil(WAYS);
        let flow_pins = flow_pins::own(buckets * WAYS);
        let adopted = flow_pins::are_whole(pin_dir, &flow_pins);
        let mut loader = EbpfLoader::new();
        for (map, pin) in flow_pins::names(&flow_pins) {
            if !adopted {
                let _ = fs::remove_file(pin_dir.join(&pin));
            }
            loader.map_pin_path(map, pin_dir.join(pin));
        }
        let ports = options.nat_ports.clone().unwrap_or_else(nat::ports);
        let (first, count) = (u32::from(*ports.start()), ports.len().max(1) as u32);
        loader.override_global(constant::FLOW_BUCKETS, &buckets, true);
        loader.override_global(constant::NAT_FIRST, &first, true).override_global(constant::NAT_PORTS, &count, true);
        loader.map_max_entries(map::FLOWS, buckets * WAYS).map_max_entries(map::FLOW_STATES, buckets);
        loader.map_max_entries(map::ROWS, options.rows.clamp(limits::MIN_ROWS, limits::MAX_ROWS));
        let mut ebpf = loader.load(OBJECT).map_err(load_error)?;
        for (_, name, _) in HOOKS {
            let program = classifier(&mut ebpf, name).ok_or(StartError::Stale(name))?;
            program.load().map_err(|source| program_error(name, source))?;
        }
        let translates = adopted && nat::is_inherited(&ebpf)?;
        let maps = Maps::take(&mut ebpf)?;
        let table = FlowTable::take(&mut ebpf, buckets)?;
        inherit::describe(&mut ebpf)?;
        let inheritance = Inheritance::open(pin_dir, &flow_pins, &flow_pins::others(&pins::all(pin_dir), &flow_pins));
        let stages = stages::load(&mut ebpf)?;
        let inherited = Some(inherited(pin_dir));
        let clsact = pins::all(pin_dir).iter().any(|pin| pin.starts_with(pins::FILTER_PREFIX));
        let kernel = Self {
            ebpf,
            pin_dir: pin_dir.to_owned(),
            attached: BTreeMap::new(),
            programs: BTreeSet::new(),
            clsact,
            inherited,
            accelerator: Accelerator::new(options.mode),
            stages,
            flow_pins,
            inherits_flows: adopted || inheritance.is_some(),
            translates: translates || inheritance.as_ref().is_some_and(Inheritance::translates),
            inheritance,
            left_out: 0,
        };
        Ok((kernel, maps, table))
    }

    /// Attaches to the uplinks that are not attached to yet, and lets go of what is no uplink any more.
    /// The names of those that were attached to.
    pub(super) fn attach(&mut self, uplinks: &BTreeMap<u32, Uplink>) -> Result<Vec<String>, ApplyError> {
        let pinned = self.stages.pin(&self.pin_dir);
        pinned.map_err(|(path, source)| ApplyError::Keep { path, source: Box::new(source) })?;
        if self.inherited.take().is_some() {
            detach_clsact_elsewhere(uplinks);
            if let Some(inheritance) = &mut self.inheritance {
                let predecessor = HOOKS.map(|(.., hook)| attached_program(&self.pin_dir, uplinks, hook));
                inheritance.begin(&mut self.stages.array, predecessor);
            }
        }
        // First, and by index: the name may be another interface's by now, which is an uplink.
        self.attached.retain(|&index, name| {
            let uplink = uplinks.get(&index);
            if let Some(uplink) = uplink {
                name.clone_from(&uplink.name);
            } else if let Some(name) = interface_name(index) {
                detach_clsact(&name);
            }
            uplink.is_some()
        });
        let mut attached = Vec::new();
        let mut failed = None;
        for (&index, uplink) in uplinks {
            if self.attached.contains_key(&index) {
                self.accelerator.look_again(index, &uplink.name);
                continue;
            }
            let hooks = HOOKS.iter().try_for_each(|hook| {
                self.attach_hook(index, &uplink.name, *hook)?;
                self.stages.are_in_use();
                Ok(())
            });
            match hooks {
                Ok(()) => {
                    let pin = self.pin_dir.join(pins::link(index, XDP_HOOK));
                    self.accelerator.attach(&mut self.ebpf, index, &uplink.name, &pin);
                    self.attached.insert(index, uplink.name.clone());
                    attached.push(uplink.name.clone());
                }
                Err(error) => failed = Some(error),
            }
        }
        self.accelerator.retain(|index| uplinks.contains_key(&index));
        let accelerated = uplinks.keys().filter(|index| self.accelerator.is_attached(**index));
        let mut kept: Vec<String> = uplinks.keys().flat_map(|index| hook_pins(*index)).flatten().collect();
        kept.extend(accelerated.map(|index| pins::link(*index, XDP_HOOK)));
        pins::remove(&self.pin_dir, |name| pins::is_of_hook(name) && !kept.iter().any(|pin| pin == name));
        // Not only when all are attached: until then what begins would go by the predecessor's tables, which nobody keeps.
        if failed.is_none() || !self.attached.is_empty() {
            let inheritance = self.inheritance.take();
            self.left_out += inheritance.map_or(0, |inheritance| inheritance.complete(&mut self.stages.array));
        }
        // On the others the predecessor may run still.
        if let Some(error) = failed {
            return Err(error);
        }
        // No predecessor's program is left that enters its own, or looks for flows.
        pins::remove(&self.pin_dir, |name| {
            stages::is_pin(name) && name != self.stages.pin
                || pins::is_of_program(name) && !self.programs.contains(name)
                || flow_pins::is_one(name) && !name.ends_with(&self.flow_pins)
        });
        Ok(attached)
    }

    /// A predecessor's program is attached, and not replaced yet.
    pub(super) fn inherits(&self) -> bool {
        self.inherited.as_ref().is_some_and(|interfaces| !interfaces.is_empty())
    }

    pub(super) fn info(&self) -> Info {
        let attached = || self.attached.values().cloned().collect();
        let mut interfaces: Vec<String> = self.inherited.clone().unwrap_or_else(attached);
        interfaces.sort_unstable();
        let hook = match (interfaces.is_empty(), self.clsact) {
            (true, _) => "",
            (false, true) => "clsact",
            (false, false) => "tcx",
        };
        let named = |(index, way): (u32, &str)| Some((self.attached.get(&index)?.clone(), way.to_owned()));
        let ways: BTreeMap<String, String> = self.accelerator.reasons().filter_map(named).collect();
        let mode = if ways.values().any(|way| way == "xdp") { "xdp" } else { "tc" };
        Info { mode, hook, interfaces, ways }
    }

    fn attach_hook(&mut self, index: u32, interface: &str, hook: (TcAttachType, &str, &str)) -> Result<(), ApplyError> {
        let (direction, name, suffix) = hook;
        let path = self.pin_dir.join(pins::link(index, suffix));
        let failed = |source| ApplyError::Attach { interface: interface.to_owned(), source: Box::new(source) };
        let Some(program) = classifier(&mut self.ebpf, name) else {
            return Err(StartError::Stale("program").into());
        };
        if let Ok(pinned) = PinnedLink::from_pin(&path) {
            if replace(program, pinned).is_ok() {
                self.programs.extend(pins::keep(program, &self.pin_dir));
                return Ok(());
            }
            // The interface it was on is gone.
            let _ = fs::remove_file(&path);
        }
        // The first to see what comes in, the last to see what goes out: others see packets as pods do.
        let order = if direction == TcAttachType::Ingress { LinkOrder::first() } else { LinkOrder::last() };
        match program.attach_with_options(interface, direction, TcAttachOptions::TcxOrder(order)) {
            Ok(id) => {
                let link = program.take_link(id).map_err(failed)?;
                let link = FdLink::try_from(link).map_err(|source| failed(link_error(source)))?;
                let pinned = link.pin(&path);
                self.programs.extend(pins::keep(program, &self.pin_dir));
                pinned.map(drop).map_err(|source| ApplyError::Pin {
                    interface: interface.to_owned(),
                    path,
                    source: Box::new(source),
                })
            }
            Err(error) if has_no_tcx(&error) => {
                self.clsact = true;
                attach_clsact(program, interface, direction).map_err(failed)?;
                // Without it a successor does not know what it inherits until it has attached.
                let path = self.pin_dir.join(pins::filter(index, suffix));
                let _ = fs::remove_file(&path);
                let _ = program.pin(&path);
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Removes everything Crier left in the kernel below this pin directory: links (which detaches the programs), clsact
/// filters, flows.
///
/// # Errors
/// If a pin cannot be removed. What could be is.
pub fn detach_all(pin_dir: &Path) -> io::Result<()> {
    for interface in &nix::net::if_::if_nameindex()? {
        detach_clsact(&interface.name().to_string_lossy());
    }
    if !pin_dir.exists() || !bpffs::is_bpffs(pin_dir)? {
        return Ok(());
    }
    for entry in fs::read_dir(pin_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let of_program = pins::is_of_hook(&name) || stages::is_pin(&name) || pins::is_of_program(&name);
        if of_program || flow_pins::is_one(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    match fs::remove_dir(pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            // Lazily: another mount namespace may hold a copy for a moment, and there is nothing left in it.
            nix::mount::umount2(pin_dir, nix::mount::MntFlags::MNT_DETACH)?;
            fs::remove_dir(pin_dir)
        }
        other => other,
    }
}

pub(super) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Option<&'a mut SchedClassifier> {
    ebpf.program_mut(name)?.try_into().ok()
}

/// Puts the program in the place of the one that holds the pinned link, which the kernel does at once.
fn replace(program: &mut SchedClassifier, pinned: PinnedLink) -> Result<(), ProgramError> {
    let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(link_error)?;
    let id = program.attach_to_link(link)?;
    // The pin keeps it; this end must not end it.
    program.take_link(id).map(drop)
}

fn attach_clsact(program: &mut SchedClassifier, interface: &str, direction: TcAttachType) -> Result<(), ProgramError> {
    // It may be there already, another's or a predecessor's.
    let _ = tc::qdisc_add_clsact(interface);
    let options = || NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let existing = SchedClassifierLink::attached(interface, direction, PRIORITY, HANDLE, None)?;
    let id = match program.attach_with_options(interface, direction, TcAttachOptions::Netlink(options())) {
        Ok(id) => {
            mem::forget(existing);
            id
        }
        Err(_) => program.attach_to_link(existing)?,
    };
    // Dropping the link would remove the filter.
    mem::forget(program.take_link(id)?);
    Ok(())
}

/// The interfaces that a predecessor's programs are on, by the names of its pins.
fn inherited(pin_dir: &Path) -> Vec<String> {
    let pins = pins::all(pin_dir);
    let indices: BTreeSet<u32> = pins.iter().filter_map(|pin| pin.split('_').nth(1)?.parse().ok()).collect();
    let whole = |index: &u32| hook_pins(*index).iter().any(|both| both.iter().all(|pin| pins.contains(pin)));
    indices.into_iter().filter(whole).filter_map(interface_name).collect()
}

/// The program that a predecessor has left on one of the uplinks' hooks.
fn attached_program(pin_dir: &Path, uplinks: &BTreeMap<u32, Uplink>, hook: &str) -> Option<ProgramFd> {
    let by_link = |index| {
        let link = PinnedLink::from_pin(pin_dir.join(pins::link(index, hook))).ok()?;
        pins::open(pin_dir, &pins::program(FdLink::from(link).info().ok()?.program_id()))
    };
    let by_filter = |index| pins::open(pin_dir, &pins::filter(index, hook));
    uplinks.keys().find_map(|index| by_link(*index).or_else(|| by_filter(*index)))
}

/// The interface's name, if it is there.
fn interface_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok()?.into_string().ok()
}

/// Removes a predecessor's filters from interfaces that are no uplinks.
fn detach_clsact_elsewhere(uplinks: &BTreeMap<u32, Uplink>) {
    let Ok(interfaces) = nix::net::if_::if_nameindex() else { return };
    for interface in interfaces.iter().filter(|interface| !uplinks.contains_key(&interface.index())) {
        detach_clsact(&interface.name().to_string_lossy());
    }
}

/// Removes Crier's own filters, known by their programs' names, from an interface.
fn detach_clsact(interface: &str) {
    for (direction, name, _) in HOOKS {
        let _ = tc::qdisc_detach_program(interface, direction, name);
    }
}

/// TCX came with Linux 6.6; before that its attach types are unknown.
fn has_no_tcx(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EINVAL))
}

/// What tells of an interface's two hooks: links, or filters.
fn hook_pins(index: u32) -> [[String; 2]; 2] {
    [pins::link, pins::filter].map(|pin| HOOKS.map(|(.., hook)| pin(index, hook)))
}

fn load_error(error: EbpfError) -> StartError {
    match permission(&error) {
        Some(source) => StartError::Permission(source),
        None => StartError::Load(Box::new(error)),
    }
}

pub(super) fn program_error(name: &'static str, error: ProgramError) -> StartError {
    match permission(&error) {
        Some(source) => StartError::Permission(source),
        None => StartError::Program { name, source: Box::new(error) },
    }
}

/// The refusal for want of permission behind an error, if that is what it is. Not `EACCES`: that is how the kernel's
/// verifier refuses a program, whoever asks.
fn permission(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return (io.raw_os_error() == Some(libc::EPERM)).then(|| io::Error::from_raw_os_error(libc::EPERM));
        }
        cause = error.source();
    }
    None
}

/// A link of another type than expected: somebody else's pin in our directory.
fn link_error(error: aya::programs::links::LinkError) -> ProgramError {
    ProgramError::IOError(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn what_the_verifier_refuses_is_not_taken_for_a_lack_of_permission() {
        let refused = |errno| {
            let io_error = io::Error::from_raw_os_error(errno);
            program_error("program", SyscallError { call: "BPF_PROG_LOAD", io_error }.into())
        };
        assert!(matches!(refused(libc::EACCES), StartError::Program { .. }));
        assert!(matches!(refused(libc::EPERM), StartError::Permission(_)));
    }
}
