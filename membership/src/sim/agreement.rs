//! What simulated nodes know, and whether they agree.

use super::*;

impl Sim {
    /// What a living node knows of all.
    pub(crate) fn view(&mut self, index: usize) -> Arc<View> {
        if let Some(view) = self.nodes.get_mut(&index).and_then(|node| node.cluster.poll_view()) {
            self.views.insert(index, view);
        }
        self.views.get(&index).cloned().unwrap_or_default()
    }

    /// What a living node knows of another.
    pub(crate) fn member(&mut self, viewer: usize, of: usize) -> Option<Member> {
        self.view(viewer).members.get(&name(of)).cloned()
    }

    /// Why the living do not agree on who is up and on all documents; `None` if they do.
    pub(crate) fn disagreement(&mut self) -> Option<String> {
        let living = self.living();
        let truth: BTreeMap<NodeName, Member> =
            living.iter().filter_map(|index| Some((name(*index), self.member(*index, *index)?))).collect();
        for index in living {
            let view = self.view(index);
            let up: BTreeSet<_> = view.up().map(|(name, _)| name).collect();
            if up != truth.keys().collect() {
                let missing: Vec<_> = truth.keys().filter(|name| !up.contains(name)).collect();
                let extra: Vec<_> = up.iter().filter(|name| !truth.contains_key(**name)).collect();
                return Some(format!("n{index} lacks {missing:?} and has too much {extra:?}"));
            }
            for (name, member) in view.up() {
                if (member.generation, &member.document) != (truth[name].generation, &truth[name].document) {
                    return Some(format!("n{index} has an old document of {name}"));
                }
            }
        }
        None
    }

    /// Runs until the living agree; returns how long that took.
    pub(crate) fn converge(&mut self, limit: Duration) -> Duration {
        let began = self.now;
        loop {
            let Some(disagreement) = self.disagreement() else { return self.now - began };
            assert!(self.now - began < limit, "no agreement within {limit:?}: {disagreement}");
            self.run(Duration::from_millis(20));
        }
    }
}
