//! ppoll(2): waiting for several sockets with microsecond deadlines, which std does not offer; and real-time priority.

use std::{os::fd::RawFd, time::Duration};

/// Waits until one of `fds` is readable (or has failed) or `timeout` has passed; tells which are.
pub(crate) fn readable(fds: &[RawFd], timeout: Duration) -> Vec<bool> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let deadline = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the array and the deadline live until the call returns, and the length is the array's.
    let ready = unsafe {
        libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, &raw const deadline, std::ptr::null())
    };
    polled.iter().map(|entry| ready > 0 && entry.revents != 0).collect()
}

/// Gives the calling thread the lowest real-time priority, so that busy programs do not delay it. Without the right to
/// (CAP_SYS_NICE) it stays as it is.
pub(crate) fn real_time() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter lives until the call returns; 0 is the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const lowest) };
}
