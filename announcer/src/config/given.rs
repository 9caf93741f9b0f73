//! One value as it was given, by file, variable or flag: read as what it should be, or the fault that names its place.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{ConfigError, closest};
use crate::model::{parse::line_of, problem::Origin};

/// A value that makes no sense: its key, and where it was not the file, the variable and flag that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    key: &'static str,
    index: Option<usize>,
    overridden_by: Option<&'static str>,
    message: String,
}

impl Fault {
    /// The error, with the line of `text` on which the key stands.
    pub(super) fn at(self, path: &Path, text: &str) -> ConfigError {
        let key = self.index.map_or_else(|| self.key.to_owned(), |index| format!("{}[{index}]", self.key));
        let origin = self.overridden_by.map_or_else(
            || {
                let document = Origin { file: String::new(), document: 1, item: None };
                let line = if text.trim().is_empty() { None } else { line_of(text, &document, &key) };
                format!("{}{}", path.display(), super::place(line, None))
            },
            str::to_owned,
        );
        ConfigError::Invalid { origin, key, message: self.message }
    }
}

/// A value with what is needed to say where it comes from.
pub(super) struct Given<'a, T> {
    pub(super) value: Option<&'a T>,
    key: &'static str,
    overridden_by: Option<&'static str>,
}

impl<'a, T> Given<'a, T> {
    /// By the flag or variable of that name if there is one, else by the file.
    pub(super) fn new(key: &'static str, flag: &'static str, file: Option<&'a T>, overriding: Option<&'a T>) -> Self {
        Self { value: overriding.or(file), key, overridden_by: overriding.is_some().then_some(flag) }
    }

    /// What is wrong with it, or with one of its items.
    pub(super) fn fault(&self, index: Option<usize>, message: impl fmt::Display) -> Fault {
        Fault { key: self.key, index, overridden_by: self.overridden_by, message: message.to_string() }
    }
}

impl Given<'_, String> {
    /// As an address and port.
    pub(super) fn socket(&self) -> Result<Option<SocketAddr>, Fault> {
        self.value.map(|text| socket(text).map_err(|message| self.fault(None, message))).transpose()
    }

    /// As one of these words; the default if it was not given.
    pub(super) fn one_of<T: Copy + Default>(&self, choices: &[(&str, T)]) -> Result<T, Fault> {
        let Some(text) = self.value else { return Ok(T::default()) };
        choices.iter().find(|(name, _)| name == text).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            let hint = closest(text, names.iter().copied());
            self.fault(None, format_args!("{text:?} is none of {}{}", names.join(", "), known_left_out(&hint)))
        })
    }
}

/// The hint without the list of known names, where the message has it already.
fn known_left_out(hint: &str) -> &str {
    if hint.contains("did you mean") { hint } else { "" }
}

impl Given<'_, PathBuf> {
    /// As a path that is not empty.
    pub(super) fn path(&self, default: &str) -> Result<PathBuf, Fault> {
        match self.value {
            None => Ok(default.into()),
            Some(path) if path.as_os_str().is_empty() => Err(self.fault(None, "empty; give a path")),
            Some(path) => Ok(path.clone()),
        }
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("{text:?} is not ADDRESS:PORT, as in 0.0.0.0:9651 or [::]:9651");
    let address: SocketAddr = text.parse().map_err(|_| wrong())?;
    if address.port() == 0 { Err(format!("{text:?}: the port must be 1 to 65535")) } else { Ok(address) }
}
