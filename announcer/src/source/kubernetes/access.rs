//! The way to the API server: the pod's service account, or a kubeconfig. Nothing here asks the server anything.

use std::{path::Path, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// How long a connection, and a request's sending, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// For how long a connection may be silent: watches bring a bookmark at least once a minute.
const SILENCE: Duration = Duration::from_secs(90);
/// The namespace of Crier's own objects, unless the environment or the service account says another.
const NAMESPACE: &str = "crier-system";

/// Why there is no way to the API server. Whether it answers is another matter.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No service account.
    #[error(
        "source.kubernetes: this is no pod with a service account ({0}); outside a cluster set source.kubernetes.kubeconfig to a file"
    )]
    NoServiceAccount(#[from] kube::config::InClusterError),
    /// The kubeconfig cannot be used.
    #[error(
        "source.kubernetes.kubeconfig: {path}: {reason}; `kubectl --kubeconfig {path} version` should work with it"
    )]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No client can be made of it, as when a certificate cannot be read.
    #[error("source.kubernetes: {0}")]
    Client(#[from] kube::Error),
}

/// A way to the API server.
#[derive(Clone)]
pub struct Access {
    /// Asks it.
    pub(super) client: Client,
    /// Where it is.
    pub server: String,
    /// The namespace of Crier's own objects.
    pub(super) namespace: String,
    /// Who asks, for those who read what it wrote.
    pub(super) node: String,
}

impl Access {
    /// The way by a kubeconfig, or else by the pod's service account.
    ///
    /// # Errors
    /// If the one that is asked for is not there or no good.
    pub async fn find(kubeconfig: Option<&Path>, node: &str) -> Result<Self, AccessError> {
        let mut config = match kubeconfig {
            None => Config::incluster()?,
            Some(path) => read(path).await.map_err(|error| AccessError::Kubeconfig {
                path: path.display().to_string(),
                reason: error.to_string(),
            })?,
        };
        config.connect_timeout = Some(CONNECT);
        config.write_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        let in_pod = kubeconfig.is_none().then(|| config.default_namespace.clone());
        let namespace = std::env::var("CRIER_NAMESPACE").ok().filter(|name| !name.is_empty());
        Ok(Self {
            server: config.cluster_url.to_string(),
            namespace: namespace.or(in_pod).unwrap_or_else(|| NAMESPACE.to_owned()),
            client: Client::try_from(config)?,
            node: node.to_owned(),
        })
    }
}

async fn read(path: &Path) -> Result<Config, kube::config::KubeconfigError> {
    Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("server", &self.server).field("namespace", &self.namespace).finish()
    }
}
