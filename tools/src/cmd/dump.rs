//! `crierctl dump`: the agent's answer as it came, fields included that this crierctl does not know.

use anyhow::{Context, Result};

use crate::{Outcome, client::Agent};

/// Fetches and indents the JSON.
pub(crate) async fn run(agent: &Agent) -> Result<Outcome> {
    let json = agent.status_json().await?;
    let value: serde_json::Value = serde_json::from_slice(&json)
        .with_context(|| format!("the answer of {agent} is not JSON; is it a Crier agent?"))?;
    Ok(Outcome::ok(serde_json::to_string_pretty(&value)? + "\n"))
}
