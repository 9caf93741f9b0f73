//! XDP, where it is worth it: the hook in the driver that hands packets on before the stack has made anything of them.
//!
//! It does only what the TC hooks do as well, which are always there, so an uplink without it loses speed and nothing else. `auto`
//! takes it where the driver is known for it. A `veth` would lose its segmentation offload, and an interface of a virtual machine
//! its large receive offload and the checksums that its host leaves out: there TC is faster for all that is not handed on. What
//! another program has taken is left to it. And where VLANs stand on the uplink it is left off: cards, and `veth`, take their tags off
//! before XDP sees a frame, which would then look like one of the uplink's own segment.

use std::{collections::BTreeMap, io, path::Path};

use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use forwarder_ebpf::program;

use super::{Mode, driver};

/// Drivers of cards whose XDP sends back by the queue that it came in by, and that lose nothing by it.
const WORTH_IT: &[&str] = &[
    "bnxt_en",
    "dpaa2-eth",
    "i40e",
    "iavf",
    "ice",
    "idpf",
    "igb",
    "igc",
    "ixgbe",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "qede",
    "sfc",
    "stmmac",
];

/// XDP on the uplinks.
#[derive(Debug)]
pub(super) struct Accelerator {
    mode: Mode,
    /// By interface index: that it is attached, or why not.
    state: BTreeMap<u32, Result<(), String>>,
}

impl Accelerator {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, state: BTreeMap::new() }
    }

    /// Attaches to an uplink, if that is wanted and the driver permits; pinned at `pin`, where a predecessor's may be, which it
    /// replaces.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf, index: u32, interface: &str, pin: &Path) {
        let attached = wish(self.mode, driver::name(interface).as_deref())
            .and_then(|()| without_vlans(interface))
            .and_then(|()| attach(ebpf, index, pin));
        match (&attached, self.mode) {
            (Ok(()), _) => tracing::info!(interface, "XDP hands packets on"),
            (Err(reason), Mode::Xdp) => tracing::warn!(interface, reason, "no XDP; TC carries everything"),
            (Err(reason), _) => tracing::debug!(interface, reason, "no XDP; TC carries everything"),
        }
        self.state.insert(index, attached);
    }

    /// Gives up an uplink on which a VLAN stands by now: its pin is of no use any more.
    pub(super) fn look_again(&mut self, index: u32, interface: &str) {
        if let Some(state @ Ok(())) = self.state.get_mut(&index)
            && let Err(reason) = without_vlans(interface)
        {
            tracing::warn!(interface, reason, "XDP is given up; TC carries everything");
            *state = Err(reason);
        }
    }

    /// These are the uplinks; all others are forgotten.
    pub(super) fn retain(&mut self, is_uplink: impl Fn(u32) -> bool) {
        self.state.retain(|index, _| is_uplink(*index));
    }

    pub(super) fn is_attached(&self, index: u32) -> bool {
        self.state.get(&index).is_some_and(Result::is_ok)
    }

    /// Why packets are carried as they are, by interface index.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (u32, &str)> {
        self.state.iter().map(|(index, state)| (*index, state.as_ref().map_or_else(String::as_str, |()| "xdp")))
    }
}

/// Whether XDP is to be tried on an interface of that driver; why not.
fn wish(mode: Mode, driver: Option<&str>) -> Result<(), String> {
    match (mode, driver) {
        (Mode::Xdp, _) => Ok(()),
        (Mode::Auto, Some(driver)) if WORTH_IT.contains(&driver) => Ok(()),
        (Mode::Auto, Some(driver)) => {
            Err(format!("tc: XDP on {driver} costs more than it gains, or is not known to gain"))
        }
        (Mode::Auto, None) => Err("tc: the interface names no driver".into()),
        (Mode::Tc | Mode::Off, _) => Err("tc: as configured".into()),
    }
}

/// Whether no VLAN stands on an interface.
fn without_vlans(interface: &str) -> Result<(), String> {
    // Of this thread's network namespace; not there where the kernel has no VLANs.
    let vlans = std::fs::read_to_string("/proc/thread-self/net/vlan/config").unwrap_or_default();
    match vlan_on(&vlans, interface) {
        Some(vlan) => Err(format!("tc: XDP does not see which frames are tagged for {vlan}")),
        None => Ok(()),
    }
}

/// A VLAN on the interface, by what the kernel lists: `eth0.10 | 10 | eth0`.
fn vlan_on<'a>(list: &'a str, interface: &str) -> Option<&'a str> {
    list.lines().find_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        let (name, _, below) = (columns.next()?, columns.next()?, columns.next()?);
        (below == interface).then_some(name)
    })
}

fn attach(ebpf: &mut Ebpf, index: u32, pin: &Path) -> Result<(), String> {
    let refused = |error: ProgramError| match cause(&error).map(io::Error::raw_os_error) {
        Some(Some(libc::EBUSY | libc::EEXIST)) => "tc: another XDP program is there, and stays".to_owned(),
        _ => format!("tc: the driver takes no XDP: {}", crate::app::with_causes(&error)),
    };
    let program: &mut Xdp = ebpf
        .program_mut(program::XDP)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| "tc: the object has no XDP program".to_owned())?;
    if program.fd().is_err() {
        program.load().map_err(refused)?;
    }
    if let Ok(pinned) = PinnedLink::from_pin(pin) {
        if replace(program, pinned).is_ok() {
            return Ok(());
        }
        // The interface it was on is gone.
        let _ = std::fs::remove_file(pin);
    }
    let id = program.attach_to_if_index(index, XdpMode::Driver).map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    // One that is no link of its own (old kernels) cannot be pinned, and goes as it is dropped.
    let link = FdLink::try_from(link).map_err(|error| format!("tc: XDP could not be pinned: {error}"))?;
    link.pin(pin).map(drop).map_err(|error| format!("tc: XDP could not be pinned: {error}"))
}

fn replace(program: &mut Xdp, pinned: PinnedLink) -> Result<(), ProgramError> {
    let link =
        XdpLink::try_from(FdLink::from(pinned)).map_err(|error| ProgramError::IOError(io::Error::other(error)))?;
    let id = program.attach_to_link(link)?;
    // The pin keeps it; this end must not end it.
    program.take_link(id).map(drop)
}

/// What the kernel said.
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_found_by_the_interface_it_stands_on() {
        let list =
            "VLAN Dev name    | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\neth1.7         | 7  | eth1\n";
        assert_eq!(vlan_on(list, "eth1"), Some("eth1.7"));
        assert_eq!([vlan_on(list, "eth1.7"), vlan_on(list, "eth0"), vlan_on("", "eth0")], [None; 3]);
    }

    #[test]
    fn auto_takes_xdp_where_the_driver_is_known_for_it_and_says_why_not_elsewhere() {
        assert_eq!(wish(Mode::Auto, Some("ice")), Ok(()));
        assert_eq!(wish(Mode::Xdp, Some("veth")), Ok(()), "who asks for it gets it");
        for (mode, driver, said) in [
            (Mode::Auto, Some("veth"), "veth"),
            (Mode::Auto, Some("virtio_net"), "virtio_net"),
            (Mode::Auto, None, "no driver"),
            (Mode::Tc, Some("ice"), "configured"),
        ] {
            assert!(wish(mode, driver).is_err_and(|reason| reason.contains(said)), "{mode:?} {driver:?}");
        }
    }
}
