//! What the edges share: packet sockets on the uplinks, waiting for a moment, telling only what is new.

pub(crate) mod lines;
pub(crate) mod packet;
pub(crate) mod resolution;

use std::time::Instant;

use tokio::sync::watch;

/// Sleeps until `due`; for ever if there is nothing to wait for.
pub(crate) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Sends the value on, unless it equals what was sent last, which then stays as it is. Returns whether it is new.
pub(crate) fn publish<T: PartialEq>(out: &watch::Sender<T>, value: T) -> bool {
    out.send_if_modified(|current| {
        let is_new = *current != value;
        if is_new {
            *current = value;
        }
        is_new
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_wakes_the_reader() {
        let (out, mut heard) = watch::channel(1);
        assert!(!publish(&out, 1));
        assert!(!heard.has_changed().unwrap());
        assert!(publish(&out, 2));
        assert_eq!((heard.has_changed().unwrap(), *heard.borrow_and_update()), (true, 2));
    }
}
