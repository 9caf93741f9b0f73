//! What is tried: which system, which fault, which address family, where the pods are.

use serde::{Deserialize, Serialize};

use crate::system::{Fault, System};

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) system: System,
    pub(crate) fault: Fault,
    pub(crate) ipv6: bool,
    /// Pods on all nodes, the failing one included.
    pub(crate) everywhere: bool,
}

impl Case {
    pub(crate) fn name(self) -> String {
        format!("{}: {}", self.subject(), self.fault.name())
    }

    /// The system and what is special about it here.
    pub(crate) fn subject(self) -> String {
        let family = if self.ipv6 { ", IPv6" } else { "" };
        let pods = if self.everywhere { ", pods on all nodes" } else { "" };
        format!("{}{family}{pods}", self.system.name())
    }

    /// All cases, in the order of the table: every fault on every system that has it, IPv6 where it goes another way
    /// (claims, neighbour discovery), pods everywhere where that tells more.
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for system in System::ALL {
            let mut add = |fault, ipv6, everywhere| cases.push(Self { system, fault, ipv6, everywhere });
            [Fault::LinkDown, Fault::Cut, Fault::Kill].into_iter().for_each(|fault| add(fault, false, false));
            match system {
                System::Crier => {
                    add(Fault::Hung, false, false);
                    [Fault::LinkDown, Fault::Cut].into_iter().for_each(|fault| add(fault, true, false));
                    [Fault::LinkDown, Fault::Cut].into_iter().for_each(|fault| add(fault, false, true));
                }
                System::CrierFast => {
                    add(Fault::Hung, false, false);
                    [Fault::LinkDown, Fault::Cut].into_iter().for_each(|fault| add(fault, true, false));
                }
                System::KeepalivedFast => add(Fault::Cut, true, false),
                // VRRPv2 has no IPv6.
                System::Keepalived => {}
            }
        }
        cases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_systems_meet_the_three_faults_and_no_case_is_there_twice() {
        let all = Case::all();
        for system in System::ALL {
            for fault in [Fault::LinkDown, Fault::Cut, Fault::Kill] {
                assert!(all.contains(&Case { system, fault, ipv6: false, everywhere: false }));
            }
        }
        let mut names: Vec<_> = all.iter().map(|case| case.name()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
