//! The pins of what is attached, by their names: what is on an interface's hooks, and the programs there.

use std::{collections::BTreeSet, fs, path::Path};

use aya::programs::{ProgramFd, SchedClassifier};

const LINK_PREFIX: &str = "link_";
/// A clsact filter cannot be pinned: its program is, to tell a successor of it.
pub(super) const FILTER_PREFIX: &str = "filter_";
/// A program on a link, by its id: without a pin it could be opened only with CAP_SYS_ADMIN, which successors may lack.
const PROGRAM_PREFIX: &str = "program_";

/// The names of all pins.
pub(super) fn all(pin_dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(pin_dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

pub(super) fn link(index: u32, hook: &str) -> String {
    format!("{LINK_PREFIX}{index}_{hook}")
}

pub(super) fn filter(index: u32, hook: &str) -> String {
    format!("{FILTER_PREFIX}{index}_{hook}")
}

pub(super) fn program(id: u32) -> String {
    format!("{PROGRAM_PREFIX}{id}")
}

/// Whether this is a pin of what is on a hook.
pub(super) fn is_of_hook(name: &str) -> bool {
    name.starts_with(LINK_PREFIX) || name.starts_with(FILTER_PREFIX)
}

/// Whether this is a program's pin.
pub(super) fn is_of_program(name: &str) -> bool {
    name.starts_with(PROGRAM_PREFIX)
}

/// Pins an attached program for a successor, who can do without. The pin's name.
pub(super) fn keep(attached: &mut SchedClassifier, pin_dir: &Path) -> Option<String> {
    let pin = program(attached.info().ok()?.id());
    // There already if it is on another uplink too.
    let _ = attached.pin(pin_dir.join(&pin));
    Some(pin)
}

/// Opens a pinned program.
pub(super) fn open(pin_dir: &Path, pin: &str) -> Option<ProgramFd> {
    SchedClassifier::from_pin(pin_dir.join(pin)).ok()?.fd().ok()?.try_clone().ok()
}

/// Removes pins that are of no use; one that stays does no harm.
pub(super) fn remove(pin_dir: &Path, useless: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(pin_dir) else { return };
    for entry in entries.flatten().filter(|entry| useless(&entry.file_name().to_string_lossy())) {
        let _ = fs::remove_file(entry.path());
    }
}
