//! The agent's configuration, in two steps.
//!
//! [`raw`] is what people write: a YAML file, `CRIER_*` variables and flags, every key optional, unknown keys refused.
//! [`resolve()`] turns it into [`Settings`]: typed, with defaults, checked across keys. [`args`] is the command line.
//! [`load`] is the edge that reads the file; it and the command line decide nothing.

pub mod args;
mod given;
mod hint;
pub mod raw;
pub mod resolve;
mod settings;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use args::Args;
pub use given::Fault;
pub(crate) use hint::closest;
pub use raw::Raw;
pub use resolve::resolve;
pub use settings::{
    ForwarderMode, GossipSettings, HostPort, LogFormat, LogLevel, LogSettings, Settings, SourceSettings, WatchSettings,
};

use crate::model::Severity;

/// Why there are no settings. Each names the file or variable, the key, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}; give the right path with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not YAML, or has an unknown key or a value of another type.
    #[error("{}{}: {message}", path.display(), place(*.line, *.column))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: Option<usize>,
        /// The column, from 1.
        column: Option<usize>,
        /// The key and what is wrong with it.
        message: String,
    },
    /// A value is of the right type and makes no sense.
    #[error("{origin}: {key}: {message}")]
    Invalid {
        /// The file with the line, the variable or the flag the value comes from.
        origin: String,
        /// The key's path in the file: `gossip.watch.interval`.
        key: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

fn place(line: Option<usize>, column: Option<usize>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!(":{line}:{column}"),
        (Some(line), None) => format!(":{line}"),
        _ => String::new(),
    }
}

/// Settings from the file that the arguments name, overridden by `CRIER_*` variables and flags. `hostname` is the
/// node's name if nobody gives one. Without a file all keys have their defaults.
///
/// # Errors
/// [`ConfigError`]; nothing has been changed.
pub fn load(args: &Args, hostname: &str) -> Result<Settings, ConfigError> {
    let text = match &args.config {
        Some(path) => {
            fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?
        }
        None => String::new(),
    };
    let path = args.config.as_deref().unwrap_or(Path::new("(no file)"));
    let raw = raw::parse(path, &text)?;
    resolve(&raw, &args.overrides, hostname).map_err(|fault| fault.at(path, &text))
}

/// What `crier --check` says.
#[derive(Debug, Clone)]
pub struct Report {
    /// One line each, errors and warnings, sorted by where they stand.
    pub problems: Vec<String>,
    /// What there is, for a person.
    pub summary: String,
    /// No error among the problems; the exit code is 0, otherwise 2.
    pub ok: bool,
}

/// The API server is not asked: whether it answers now says nothing about when the agent starts.
fn check_kubernetes(settings: &Settings, kubeconfig: Option<&Path>) -> Report {
    let problem = kubeconfig.and_then(|path| fs::File::open(path).err().map(|error| (path, error)));
    let problem = problem.map(|(path, error)| format!("source.kubernetes.kubeconfig: {}: {error}", path.display()));
    let by = kubeconfig.map_or_else(|| "the pod's service account".to_owned(), |path| path.display().to_string());
    let ok = problem.is_none();
    let summary = format!("node {}, the Kubernetes API by {by}, which is not asked", settings.node);
    Report { problems: problem.into_iter().collect(), summary, ok }
}

/// Checks what the settings point to: the manifests. (The settings themselves were checked by [`load`].)
#[must_use]
pub fn check(settings: &Settings) -> Report {
    let folder = match &settings.source {
        SourceSettings::Manifests(folder) => folder,
        SourceSettings::Kubernetes(kubeconfig) => return check_kubernetes(settings, kubeconfig.as_deref()),
    };
    let snapshot = crate::source::manifests::read_once(folder);
    let errors = snapshot.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = snapshot.problems.len() - errors;
    let vips: Vec<_> = snapshot.desired.services.values().flat_map(|service| &service.vips).collect();
    let pods = snapshot.desired.services.values().flat_map(|service| &service.ports);
    let pods: usize = pods.map(|port| port.backends.len()).sum();
    let counted: Vec<_> = snapshot.objects.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let objects = if counted.is_empty() { "no objects".to_owned() } else { counted.join(", ") };
    let verdict = if errors == 0 { "good" } else { "not good" };
    let summary = format!(
        "node {}, manifests {}: {objects}\n{} services with {} VIPs and {pods} backends; {errors} errors, {warnings} \
         warnings: {verdict}",
        settings.node,
        folder.display(),
        snapshot.desired.services.len(),
        vips.len(),
    );
    let shown = |problem: &crate::model::Problem| match &problem.origin {
        Some(_) => format!("{}/{problem}", folder.display()),
        None => problem.to_string(),
    };
    Report { problems: snapshot.problems.iter().map(shown).collect(), summary, ok: errors == 0 }
}

#[cfg(test)]
mod tests;
