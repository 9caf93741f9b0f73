//! What people ask of this node (`crierctl drain`, `rebalance`, `announce`), done or refused with the reason.

use std::time::Instant;

use super::{Controller, unix_ms};
use crate::http::{Action, Order, Refused};

impl Controller {
    /// Does what is asked, and answers.
    pub(super) fn obey(&mut self, order: Order) {
        let now = Instant::now();
        let done = match order.action {
            Action::Drain => {
                self.told_to_drain = true;
                self.drain_or_not(now);
                Ok(format!("draining: {} VIPs are being handed over", self.answering.len()))
            }
            Action::Undrain => {
                self.told_to_drain = false;
                self.drain_or_not(now);
                Ok(if self.leaving {
                    "its Node object still says that this node should own nothing: uncordon it".to_owned()
                } else {
                    "this node may own VIPs again".to_owned()
                })
            }
            Action::Rebalance => self.rebalance(now),
            Action::Announce(None) => {
                self.answering.keys().for_each(|vip| self.outputs.announcer.again(*vip));
                Ok(format!("announcing {} VIPs again", self.answering.len()))
            }
            Action::Announce(Some(vip)) if self.answering.contains_key(&vip) => {
                self.outputs.announcer.again(vip);
                Ok(format!("announcing {vip} again"))
            }
            Action::Announce(Some(vip)) => {
                Err(Refused(format!("this node does not own {vip}; `crierctl vips` shows who does")))
            }
        };
        // Whoever asked may have gone away meanwhile; what was asked is done all the same.
        let _ = order.reply.send(done);
    }

    /// Drains if anybody wants that.
    pub(super) fn drain_or_not(&mut self, now: Instant) {
        if self.told_to_drain || self.leaving {
            self.ownership.drain(now);
        } else {
            self.ownership.undrain(now);
        }
    }

    fn rebalance(&mut self, now: Instant) -> Result<String, Refused> {
        if self.ownership.is_draining() || self.facts.listening {
            let why = if self.facts.listening { "has just started and still listens" } else { "drains" };
            return Err(Refused(format!("this node {why}, so it takes no VIPs")));
        }
        Ok(match self.ownership.rebalance(now, unix_ms()) {
            0 => "this node has its share of the VIPs already; nodes that carry fewer are to be asked".to_owned(),
            coming => format!("taking {coming} VIPs over, one after the other"),
        })
    }
}
