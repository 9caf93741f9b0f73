//! The stage of a bed's rounds: its cluster, which lives from round to round and is replaced after one that failed.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};

use super::{invariants, leaks::Ledger, scenario::Bed, world::concentrate};
use crate::{
    manifests::{service, web},
    observe::eventually,
    scenario::{Cluster, ClusterBuilder, DNS, SETTLE, WEB},
};

/// How many services the bed of that name has.
const HUNDRED: u8 = 100;

/// The pool of a hundred addresses.
const POOL: &str = "\
apiVersion: crier.io/v1alpha1
kind: IPAddressPool
metadata: {name: lan, namespace: default}
spec:
  addresses: [10.77.0.100-10.77.0.249]
---
apiVersion: crier.io/v1alpha1
kind: L2Advertisement
metadata: {name: lan, namespace: default}
spec:
  ipAddressPools: [lan]
";

/// A cluster on which rounds are played.
#[derive(Debug)]
pub struct Stage {
    /// The cluster, settled between rounds.
    pub cluster: Cluster,
    /// What its agents held after each round.
    pub ledger: Ledger,
    bed: Bed,
    /// How much of each agent's log has been read.
    read: Vec<usize>,
}

impl Stage {
    /// Builds the cluster and waits until it has settled.
    ///
    /// # Errors
    /// When it does not.
    pub fn build(bed: Bed) -> Result<Self> {
        let cluster = match bed {
            Bed::Three => Cluster::three("chaos")
                .service(web().tcp(WEB).udp(DNS).dual_stack())
                .service(service("second").tcp(WEB).udp(DNS))
                .quiet()
                .build()?,
            Bed::Hundred => {
                let services = (0..HUNDRED).map(|index| service(&format!("s{index}")).tcp(WEB).udp(DNS));
                let builder = services.fold(Cluster::three("chaos-100").pods(1).quiet(), ClusterBuilder::service);
                let cluster = builder.build()?;
                cluster.manifests.write("pool.yaml", POOL)?;
                cluster
            }
        };
        cluster.agents.iter().try_for_each(crate::agent::Agent::start)?;
        eventually(SETTLE, "all agents answer", || {
            cluster.agents.iter().try_for_each(|agent| agent.status().map(drop))
        })?;
        invariants::settle(&cluster)?;
        let read = vec![0; cluster.agents.len()];
        Ok(Self { cluster, ledger: Ledger::default(), bed, read })
    }

    /// Makes the cluster what the bed promises at the beginning of a round.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn prepare(&self) -> Result<()> {
        match self.bed {
            Bed::Three => Ok(()),
            Bed::Hundred => concentrate(&self.cluster, "n1"),
        }
    }

    /// The VIPs a round's traffic may go to; one of them is chosen.
    #[must_use]
    pub fn choices(&self) -> Vec<IpAddr> {
        match self.bed {
            Bed::Three => vec![self.cluster.vip4(), self.cluster.vip6()],
            Bed::Hundred => vec![self.cluster.vip4()],
        }
    }

    /// Whether all VIPs are under load, not only the chosen one.
    #[must_use]
    pub fn loads_all(&self) -> bool {
        self.bed == Bed::Hundred
    }

    /// What agents complained of since the last call; see [`invariants::complaints`].
    pub fn complaints(&mut self, expected: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for (agent, read) in self.cluster.agents.iter().zip(&mut self.read) {
            let log = agent.log();
            let news = log.get(*read..).unwrap_or(&log);
            let lines = invariants::complaints(news, expected);
            found.extend(lines.into_iter().map(|line| format!("log of {}: {line}", agent.name)));
            *read = log.len();
        }
        found
    }

    /// Copies the agents' logs to files `<prefix>-<node>.log` in `folder`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn keep_logs(&self, folder: &Path, prefix: &str) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for agent in &self.cluster.agents {
            fs::write(folder.join(format!("{prefix}-{}.log", agent.name)), agent.log())?;
        }
        Ok(())
    }
}
