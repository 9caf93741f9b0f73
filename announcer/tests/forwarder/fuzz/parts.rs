//! Parts of datagrams: what became of the first, and that the others follow it.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    anatomy::{Anatomy, Part},
    judge::{Case, Fate, NEXT, PASS, REDIRECT, SHOT, address, copy, header_is_right},
    kernel::Way,
    scene::OWN,
};

/// By what a datagram's parts are known: both ends, its number, what IPv4 says is in it, and that it goes out.
type Datagram = (IpAddr, IpAddr, u32, u8, bool);

/// What became of a first part.
#[derive(Debug, Clone, Copy)]
enum Course {
    /// It was given another address.
    Given(IpAddr),
    /// To this MAC, with so many hops left.
    HandedOn([u8; 6], u8),
}

/// All first parts that were carried.
#[derive(Debug, Default)]
pub(crate) struct Parts(BTreeMap<Datagram, Course>);

impl Parts {
    /// Notes what became of a packet, if it was a first part.
    pub(crate) fn note(&mut self, case: &Case<'_>, fate: Fate) {
        let Some(packet) = Anatomy::of(case.came) else { return };
        let Some(part) = packet.part.filter(|part| part.first && case.way != Way::Xdp) else { return };
        let left = &case.ran.frame;
        let end = |n: usize| Course::Given(address(left, packet.addresses()[n]));
        let course = match fate {
            Fate::Delivered => end(1),
            Fate::Replied => end(0),
            Fate::HandedOn => {
                let mut mac = [0; 6];
                mac.copy_from_slice(&left[..6]);
                Course::HandedOn(mac, left[packet.hops_at()])
            }
            Fate::Dropped("ttl_expired") => Course::HandedOn([0; 6], 0),
            Fate::Passed if case.way == Way::Ingress => return,
            _ => {
                self.0.remove(&datagram(&packet, part, case.way));
                return;
            }
        };
        self.0.insert(datagram(&packet, part, case.way), course);
    }

    /// What became of a part that is not the first; what is wrong with that.
    pub(crate) fn judge(&self, case: &Case<'_>, packet: &Anatomy, part: Part) -> Result<Fate, String> {
        let (came, left) = (case.came, &case.ran.frame);
        let course = self.0.get(&datagram(packet, part, case.way)).copied();
        match (case.way, case.ran.verdict) {
            (Way::Ingress, SHOT) => match (case.drops, course) {
                // Who has waited too long is not carried either.
                (["fragment"], _) => Ok(Fate::Dropped("fragment")),
                (["ttl_expired"], Some(Course::HandedOn(_, hops))) if hops == 0 || packet.hops <= 1 => {
                    Ok(Fate::Dropped("ttl_expired"))
                }
                (drops, _) => Err(format!("dropped as {drops:?}; its first part was {course:?}")),
            },
            (Way::Xdp, PASS) | (Way::Egress, NEXT) if left == came => Ok(Fate::Passed),
            (way, verdict) => {
                let mut expected = came.to_vec();
                let fate = match (course, way, verdict) {
                    (Some(Course::Given(ip)), Way::Ingress | Way::Egress, NEXT) => {
                        let (at, length) = packet.addresses()[usize::from(way == Way::Ingress)];
                        need!(address(left, (at, length)) == ip, "it does not follow its first part to {ip}");
                        copy(&mut expected, left, at..at + length);
                        if way == Way::Ingress { Fate::Delivered } else { Fate::Replied }
                    }
                    (Some(Course::HandedOn(mac, hops)), Way::Ingress, REDIRECT) => {
                        expected[..6].copy_from_slice(&mac);
                        expected[6..12].copy_from_slice(&OWN);
                        expected[packet.hops_at()] = hops.min(packet.hops.saturating_sub(1));
                        Fate::HandedOn
                    }
                    _ => return Err(format!("{way:?} says {verdict}, though its first part was {course:?}")),
                };
                header_is_right(packet, came, left, &mut expected)?;
                need!(*left == expected, "more has changed than with its first part");
                Ok(fate)
            }
        }
    }
}

fn datagram(packet: &Anatomy, part: Part, way: Way) -> Datagram {
    (packet.source, packet.destination, part.id, part.protocol, way == Way::Egress)
}
