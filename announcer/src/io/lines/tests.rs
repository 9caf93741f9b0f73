//! Lines of sockets that can be refused and broken at will.

use std::cell::RefCell;

use futures_util::FutureExt as _;

use super::*;

thread_local! {
    /// The interfaces on which no socket can be had, in this test.
    static REFUSED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    /// Those whose sockets have an error to tell.
    static BROKEN: RefCell<Vec<(u32, i32)>> = const { RefCell::new(Vec::new()) };
}

fn refuse(indices: &[u32]) {
    REFUSED.set(indices.to_vec());
}

/// Sockets that always have a frame: their interface's index.
#[derive(Debug)]
struct Fake(u32);

impl Sockets for Fake {
    fn open(index: u32) -> io::Result<Self> {
        if REFUSED.with_borrow(|refused| refused.contains(&index)) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self(index))
    }

    fn send(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn poll_recv(&self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let error = BROKEN.with_borrow(|broken| broken.iter().find(|(index, _)| *index == self.0).copied());
        if let Some((_, code)) = error {
            return Poll::Ready(Err(io::Error::from_raw_os_error(code)));
        }
        buffer[0] = self.0.to_be_bytes()[3];
        Poll::Ready(Ok(1))
    }
}

const A: (&str, u32) = ("eth0", 1);
const B: (&str, u32) = ("eth1", 2);

fn opened((name, index): (&str, u32), again: bool) -> Opened {
    Opened { name: name.to_owned(), index, again }
}

#[test]
fn sockets_come_and_go_with_their_uplinks() {
    let (mut lines, now) = (Lines::<Fake>::new("tests"), Instant::now());
    assert_eq!(lines.sync([A, B].into_iter(), now), [opened(A, false), opened(B, false)]);
    assert_eq!(lines.sync([A, B].into_iter(), now), []);
    assert!(lines.send("eth1", b"x").is_ok());
    assert_eq!(lines.sync([A].into_iter(), now), []);
    assert_eq!(lines.send("eth1", b"x").unwrap_err().kind(), io::ErrorKind::NotConnected);
    let renumbered = ("eth0", 9);
    assert_eq!(lines.sync([renumbered].into_iter(), now), [opened(renumbered, false)], "another interface by its name");
    assert!(lines.at(1).is_none() && lines.at(9).is_some());
}

#[test]
fn what_cannot_be_opened_is_tried_again_after_a_while_and_holds_up_no_other() {
    let (mut lines, now) = (Lines::<Fake>::new("tests"), Instant::now());
    refuse(&[1]);
    assert_eq!(lines.sync([A].into_iter(), now), []);
    assert_eq!(lines.poll_timeout(), Some(now + RETRY));
    refuse(&[]);
    let soon = now + RETRY / 2;
    assert_eq!(lines.sync([A, B].into_iter(), soon), [opened(B, false)], "the new one is tried at once");
    assert_eq!(lines.poll_timeout(), Some(now + RETRY), "which does not put the other off");
    assert_eq!(lines.sync([A, B].into_iter(), now + RETRY), [opened(A, true)]);
    assert_eq!(lines.poll_timeout(), None);
}

#[test]
fn nothing_is_tried_again_for_an_uplink_that_has_gone() {
    let (mut lines, now) = (Lines::<Fake>::new("tests"), Instant::now());
    refuse(&[1]);
    lines.sync([A, B].into_iter(), now);
    assert_eq!(lines.sync([B].into_iter(), now), []);
    assert_eq!(lines.poll_timeout(), None);
}

#[test]
fn a_line_that_fails_gets_new_sockets_and_one_that_goes_down_keeps_its_own() {
    let (mut lines, now) = (Lines::<Fake>::new("tests"), Instant::now());
    let mut buffer = [0; 4];
    lines.sync([A].into_iter(), now);
    BROKEN.set(vec![(1, libc::ENETDOWN)]);
    assert_eq!(lines.hear(&mut buffer).now_or_never(), Some(None));
    assert!(lines.at(1).is_some() && lines.poll_timeout().is_none());
    BROKEN.set(vec![(1, libc::EIO)]);
    assert_eq!(lines.hear(&mut buffer).now_or_never(), Some(None));
    assert!(lines.at(1).is_none());
    let due = lines.poll_timeout().unwrap();
    assert_eq!(lines.sync([A].into_iter(), due), [opened(A, true)]);
}

#[test]
fn a_busy_line_does_not_starve_the_others() {
    let (mut lines, now) = (Lines::<Fake>::new("tests"), Instant::now());
    lines.sync([A, B].into_iter(), now);
    let mut buffer = [0; 4];
    let mut heard: Vec<String> = Vec::new();
    for _ in 0..4 {
        let (name, frame) = lines.hear(&mut buffer).now_or_never().flatten().unwrap();
        assert_eq!(frame, [if name == "eth0" { 1 } else { 2 }]);
        heard.push(name);
    }
    assert_eq!(heard, ["eth1", "eth0", "eth1", "eth0"]);
}
