//! What moves VIPs, make before break. `crierctl drain` hands the node's VIPs over, with `--undo` it may own some again;
//! `crierctl rebalance` has it take its share.

use anyhow::Result;

use crate::{Outcome, args::Output, client::Agent};

/// Has the agent drain, or end its drain, and says what it said.
pub(crate) async fn run(agent: &Agent, output: Output, undo: bool) -> Result<Outcome> {
    act(agent, output, if undo { "/api/v1/undrain" } else { "/api/v1/drain" }).await
}

/// Has the agent do what `path` stands for, and says what it said.
pub(crate) async fn act(agent: &Agent, output: Output, path: &str) -> Result<Outcome> {
    let said = agent.act(path).await?;
    Ok(Outcome::ok(match output {
        Output::Table => said,
        Output::Json => serde_json::to_string_pretty(&serde_json::json!({ "outcome": said.trim_end() }))? + "\n",
    }))
}
