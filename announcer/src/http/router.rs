//! The routes, as two routers: [`reading`] for the TCP port, [`acting`] for the unix socket.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{Action, Order, Orders, StatusSource, flows::FlowQuery, page};
use crate::metrics::Metrics;

/// How long the app may take to carry out an action before the person who asked is told to look again.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Shared {
    source: Arc<dyn StatusSource>,
    metrics: Arc<Metrics>,
}

/// The routes that only read.
pub fn reading(source: Arc<dyn StatusSource>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/", get(show_page))
        .route("/metrics", get(render_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", get(status))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found; try / or /metrics or /api/v1/status\n") })
        .with_state(Shared { source, metrics })
}

/// The routes that only read, and those that act through `orders`: for the unix socket alone.
pub fn acting(source: Arc<dyn StatusSource>, metrics: Arc<Metrics>, orders: Orders) -> Router {
    let actions = Router::new()
        .route("/api/v1/drain", post(|State(orders): State<Orders>| order(orders, Action::Drain)))
        .route("/api/v1/undrain", post(|State(orders): State<Orders>| order(orders, Action::Undrain)))
        .route("/api/v1/rebalance", post(|State(orders): State<Orders>| order(orders, Action::Rebalance)))
        .route("/api/v1/announce", post(announce))
        .with_state(orders);
    let shared = Shared { source: Arc::clone(&source), metrics: Arc::clone(&metrics) };
    let flows = Router::new().route("/api/v1/flows", get(flows)).with_state(shared);
    reading(source, metrics).merge(flows).merge(actions)
}

async fn show_page(State(shared): State<Shared>) -> Response {
    let policy = [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (policy, Html(page::render(&shared.source.status()))).into_response()
}

async fn render_metrics(State(shared): State<Shared>) -> Response {
    match shared.metrics.render(&shared.source.snapshot()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let readiness = shared.source.readiness();
    if readiness.is_ready() {
        return "ready\n".into_response();
    }
    let awaited: String = readiness.awaiting.iter().map(|what| format!("- {what}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready, awaiting:\n{awaited}")).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(shared.source.status())).into_response()
}

async fn flows(State(shared): State<Shared>, Query(query): Query<FlowQuery>) -> Response {
    match tokio::task::spawn_blocking(move || shared.source.flows(&query)).await {
        Ok(Ok(flows)) => ([(header::CACHE_CONTROL, "no-store")], Json(flows)).into_response(),
        Ok(Err(refused)) => (StatusCode::CONFLICT, format!("{refused}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the agent is shutting down\n").into_response(),
    }
}

#[derive(Deserialize)]
struct AnnounceQuery {
    vip: Option<IpAddr>,
}

async fn announce(State(orders): State<Orders>, Query(query): Query<AnnounceQuery>) -> Response {
    order(orders, Action::Announce(query.vip)).await
}

/// Hands an action to the app and waits for its word.
async fn order(orders: Orders, action: Action) -> Response {
    let (reply, outcome) = oneshot::channel();
    if orders.try_send(Order { action, reply }).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the agent is busy or shutting down; try again\n").into_response();
    }
    match tokio::time::timeout(PATIENCE, outcome).await {
        Ok(Ok(Ok(done))) => format!("{done}\n").into_response(),
        Ok(Ok(Err(refused))) => (StatusCode::CONFLICT, format!("{refused}\n")).into_response(),
        Ok(Err(_)) => (StatusCode::SERVICE_UNAVAILABLE, "the agent is shutting down\n").into_response(),
        Err(_) => {
            let text = format!("no outcome after {}; look at the status\n", humantime::format_duration(PATIENCE));
            (StatusCode::GATEWAY_TIMEOUT, text).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
