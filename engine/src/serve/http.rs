//! Connections: how many, for how long, and how they end.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::worker::Worker;
use super::{App, routes};
use crate::Failure;
use crate::run::{self, Signals};

/// Connections at a time; others wait to be accepted.
const CONNECTIONS: usize = 512;
/// Headers of a request, and bytes that are read before they are understood.
const HEADERS: usize = 64;
const HEADER_BYTES: usize = 32 << 10;
/// After this a connection ends with the answer it carries.
const LIFETIME: Duration = Duration::from_mins(10);
/// For the last bytes of an answer to get through after its time is up.
const GRACE: Duration = Duration::from_secs(10);
/// How often signals are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Accepts connections until a signal comes, then lets those there are finish for a while.
///
/// # Errors
/// The listener cannot be used, or the engine's thread has ended.
pub(super) async fn run(
    app: Arc<App>,
    listener: std::net::TcpListener,
    signals: &Signals,
    worker: &Worker,
) -> Result<(), Failure> {
    let listener = TcpListener::from_std(listener)?;
    let router = routes::router(&app);
    let (stop, stopped) = watch::channel(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let patience = app.limits.request_timeout + GRACE;
    let header_timeout = app.limits.header_timeout;
    let mut ticks = interval(TICK);
    let served = loop {
        tokio::select! {
            (stream, place) = accept(&listener, &places) => {
                let (router, stopped) = (router.clone(), stopped.clone());
                connections.spawn(async move {
                    connection(stream, router, stopped, header_timeout, patience).await;
                    drop(place);
                });
            }
            Some(_) = connections.join_next() => {}
            _ = ticks.tick() => {
                if signals.stop_requested().is_some() {
                    break Ok(());
                }
                if !worker.is_alive() {
                    break Err(Failure::run("the engine has ended unexpectedly"));
                }
            }
        }
    };
    drop(listener);
    app.ending.store(true, Ordering::Relaxed);
    stop.send_replace(true);
    finish(connections, app.limits.shutdown_timeout).await;
    served
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // A connection that broke at once, or too many open files: others go on, and so do we.
            Err(_) => sleep(TICK).await,
        }
    }
}

/// Answers the requests of one connection. However a client behaves, it ends.
async fn connection(
    stream: TcpStream,
    router: Router,
    mut stopped: watch::Receiver<bool>,
    header_timeout: Duration,
    patience: Duration,
) {
    // Tokens are small, and wanted at once.
    let _ = stream.set_nodelay(true);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = pin!(served);
    tokio::select! {
        _ = served.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = sleep(LIFETIME) => {}
    }
    served.as_mut().graceful_shutdown();
    // What a client did wrong, or that it went away, is its own business.
    let _ = timeout(patience, served).await;
}

/// Waits for the answers that are on their way.
async fn finish(mut connections: JoinSet<()>, limit: Duration) {
    run::note(&format!(
        "stopping: finishing what runs, for {} s at most; a second signal ends at once",
        limit.as_secs()
    ));
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(limit, all).await.is_err() {
        run::note("warning: some answers did not finish in time");
    }
}
