//! Which driver an interface has.

use std::{
    ffi::{c_char, c_ulong},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const SIOCETHTOOL: c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;

/// `struct ethtool_drvinfo` of `linux/ethtool.h`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ifreq` of `linux/if.h`, as ethtool's calls use it.
#[repr(C)]
struct Request {
    name: [c_char; libc::IFNAMSIZ],
    data: *mut DriverInfo,
    /// The union behind the name is 24 bytes.
    pad: [u64; 2],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);
const _: () = assert!(size_of::<Request>() == 40);

/// The name of an interface's driver, if it has one that says so: `veth`, `virtio_net`, `ice`.
pub(super) fn name(interface: &str) -> Option<String> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let mut request = Request { name: [0; libc::IFNAMSIZ], data: &raw mut info, pad: [0; 2] };
    if interface.len() >= libc::IFNAMSIZ {
        return None;
    }
    for (to, from) in request.name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed() as c_char;
    }
    // SAFETY: the request is a `struct ifreq` whose data points to a `struct ethtool_drvinfo`, of which the kernel writes no more
    // than its size; both live until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if done != 0 {
        return None;
    }
    let name: Vec<u8> = info.driver.into_iter().take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}
