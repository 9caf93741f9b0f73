//! What is watched: the kinds that are read, and the one that the agents write.

use serde::de::DeserializeOwned;

use crate::model::objects::{API_VERSION, Kind};

/// A kind of objects that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Watched {
    /// Objects that the model is built from.
    Model(Kind),
    /// What agents say of services' addresses.
    Vip,
}

impl Watched {
    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().map(Self::Model).chain([Self::Vip])
    }

    /// The kind's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Model(kind) => kind.name(),
            Self::Vip => "VIP",
        }
    }

    /// The plural in URLs.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model(Kind::Namespace) => "namespaces",
            Self::Model(Kind::Node) => "nodes",
            Self::Model(Kind::IPAddressPool) => "ipaddresspools",
            Self::Model(Kind::L2Advertisement) => "l2advertisements",
            Self::Model(Kind::HealthCheck) => "healthchecks",
            Self::Model(Kind::Service) => "services",
            Self::Model(Kind::EndpointSlice) => "endpointslices",
            Self::Vip => "vips",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::Model(kind) => kind.api_version(),
            Self::Vip => API_VERSION,
        }
    }

    /// The URL's path of all objects, or of those of a namespace.
    pub(super) fn path(self, namespace: Option<&str>) -> String {
        let version = self.api_version();
        let root = if version == "v1" { "/api" } else { "/apis" };
        let within = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        format!("{root}/{version}{within}/{}", self.plural())
    }
}

/// A part of an object's metadata, if it is there.
pub(super) fn metadata<T: DeserializeOwned>(object: &serde_json::Value, field: &str) -> Option<T> {
    T::deserialize(object.get("metadata")?.get(field)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(Watched::Model(Kind::Service).path(None), "/api/v1/services");
        assert_eq!(Watched::Model(Kind::Service).path(Some("web")), "/api/v1/namespaces/web/services");
        assert_eq!(Watched::Model(Kind::EndpointSlice).path(None), "/apis/discovery.k8s.io/v1/endpointslices");
        assert_eq!(Watched::Vip.path(None), "/apis/crier.io/v1alpha1/vips");
    }
}
