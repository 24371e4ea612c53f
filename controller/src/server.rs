//! Serving: the two ports, the tasks behind them, and an orderly end.
//!
//! Way in: [`Running::start`] and [`Running::stop`]; [`run`] is both with the signals between.
//! [`routes`] is where a service is put in, [`spawn_tasks`] where a background task is.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::v1::agent_link_server::AgentLinkServer;
use shoal_proto::v1::agents_server::AgentsServer;
use shoal_proto::v1::controller_server::ControllerServer;
use shoal_proto::v1::enrol_server::EnrolServer;
use shoal_proto::v1::events_server::EventsServer;
use shoal_proto::v1::fleets_server::FleetsServer;
use shoal_proto::v1::hosts_server::HostsServer;
use shoal_proto::v1::images_server::ImagesServer;
use shoal_proto::v1::instances_server::InstancesServer;
use shoal_proto::v1::rollouts_server::RolloutsServer;
use shoal_proto::v1::secrets_server::SecretsServer;
use shoal_proto::v1::segments_server::SegmentsServer;
use shoal_proto::{DESCRIPTORS, LARGEST_MESSAGE};
use shoal_tls::ReloadableIdentity;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};
use tonic::service::Routes;
use tonic::transport::Server;

use crate::access::AccessLayer;
use crate::agents_api::{self, AgentsApi};
use crate::app::{App, AppError};
use crate::authority::{AuthorityError, SERVER_CHECK};
use crate::clock;
use crate::controller_api::ControllerApi;
use crate::enrol::EnrolApi;
use crate::events_api::EventsApi;
use crate::fleets_api::Fleets;
use crate::hosts_api::HostsApi;
use crate::images_api::{self, Images, prune};
use crate::instances_api::Instances;
use crate::link::{LinkApi, desired};
use crate::listener::{Connections, Limits, ListenError, Listener, Setup};
use crate::peers;
use crate::rollout_driver;
use crate::rollouts_api::Rollouts;
use crate::secrets_api::SecretsApi;
use crate::store::{CommitError, StoreError};
use shoal_core::cause::chain;

/// How often a connection without traffic is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long it has for the answer.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// Bytes that one call may send ahead of its reader.
const STREAM_WINDOW: u32 = 2 << 20;
/// Calls of a connection that may all have sent so much, besides the sessions of a host.
const WINDOWS_BESIDES: usize = 4;
/// How long calls have to end when the controller does.
const DRAIN: Duration = Duration::from_secs(10);
/// How long connections that were cut, and background tasks, then still have.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Bytes of one message on the enrolment port; a request is far below one KiB.
const ENROL_MESSAGE: usize = 64 << 10;
/// Calls on one connection to the enrolment port.
const ENROL_CALLS: u32 = 8;
/// How long a connection to the enrolment port lives at most, so that idle ones can't use it up.
const ENROL_AGE: Duration = Duration::from_secs(60);

/// Why the controller can't start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error("cannot use the server's certificate")]
    Authority(#[from] AuthorityError),
    #[error("cannot serve where `{1}` in controller.toml says")]
    Listen(#[source] ListenError, &'static str),
    #[error("cannot set up gRPC reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
    #[error("cannot listen for signals")]
    Signal(#[source] std::io::Error),
    #[error("the {0} port stopped serving; see the log")]
    Ended(&'static str),
    #[error("cannot store what was reported last")]
    Flush(#[from] CommitError),
    #[error("cannot close the store")]
    Close(#[from] StoreError),
}

/// Serves from the controller's directory until SIGTERM or SIGINT.
///
/// # Errors
/// See [`ServeError`].
pub async fn run(dir: &Path) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    let mut running = Running::start(App::open(dir).await?).await?;
    // Where no service manager waits for it, nobody minds.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        port = running.ended() => Err(ServeError::Ended(port)),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    running.stop().await?;
    ended
}

/// A controller that serves.
#[derive(Debug)]
pub struct Running {
    app: Arc<App>,
    address: SocketAddr,
    enrol_address: SocketAddr,
    connections: [Connections; 2],
    main: JoinHandle<()>,
    enrol: JoinHandle<()>,
}

impl Running {
    /// Opens both ports and starts everything behind them.
    ///
    /// # Errors
    /// Where a port can't be had, or there is no server certificate.
    pub async fn start(app: Arc<App>) -> Result<Self, ServeError> {
        let config = &app.config;
        let server = app.authority.server(&config.id, &config.addresses, clock::system_time())?;
        let main = main_port(&app, &server)?;
        let enrol = enrol_port(&app, &server)?;
        let (address, enrol_address) = (main.local_addr(), enrol.local_addr());
        let connections = [main.connections(), enrol.connections()];
        // An app is served once; were it again, it would be through the same port.
        let _ = app.connections.set(main.connections());
        // Before anyone can push: a file that is being pushed has no record either.
        if let Err(error) = images_api::remove_orphans(&app.records, &app.blobs).await {
            tracing::error!(%error, "cannot remove image files that have no record");
        }
        if let Err(error) = agents_api::remove_orphans(&app.records, &app.programs).await {
            tracing::error!(%error, "cannot remove programs of the agent that have no record");
        }
        spawn_tasks(&app, server);
        let (epoch, trust_domain) = (app.epoch, app.authority.trust_domain());
        tracing::info!(%address, %enrol_address, epoch, %trust_domain, "controller serves");
        Ok(Self {
            main: serve_main(&app, main)?,
            enrol: serve_enrol(&app, enrol),
            app,
            address,
            enrol_address,
            connections,
        })
    }

    /// What it serves.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// The main port, with the number that the system chose where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The enrolment port, likewise.
    pub fn enrol_address(&self) -> SocketAddr {
        self.enrol_address
    }

    /// Waits until a port no longer serves, and says which.
    async fn ended(&mut self) -> &'static str {
        tokio::select! {
            _ = &mut self.main => "main",
            _ = &mut self.enrol => "enrolment",
        }
    }

    /// Ends every stream, waits for calls, stores what is not stored yet and closes the store.
    ///
    /// # Errors
    /// Where the store can't be written or closed.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        tracing::info!("controller shuts down");
        self.app.live.close();
        self.app.shutdown.cancel();
        if timeout(DRAIN, self.served()).await.is_err() {
            let cut: usize = self.connections.iter().map(Connections::cut_all).sum();
            tracing::warn!(connections = cut, "connections cut that did not end in time");
            let _ = timeout(LAST_WAIT, self.served()).await;
        }
        self.app.tasks.close();
        if timeout(LAST_WAIT, self.app.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.app.tasks.len(), "tasks are left that did not end in time");
        }
        self.app.live.flush().await?;
        self.app.events.flush().await?;
        self.app.records.store().close().await?;
        tracing::info!("controller has stopped");
        Ok(())
    }

    async fn served(&mut self) {
        // A task that is over must not be waited for again.
        if !self.main.is_finished() {
            let _ = (&mut self.main).await;
        }
        if !self.enrol.is_finished() {
            let _ = (&mut self.enrol).await;
        }
    }
}

/// A service with the size limits of the main port.
macro_rules! sized {
    ($server:ident, $service:expr) => {
        $server::new($service)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    };
}

/// Every service of the main port. Each RPC needs a rule in [`crate::access`].
fn routes(app: &Arc<App>) -> Result<Routes, ServeError> {
    let mut routes = Routes::builder();
    routes
        .add_service(sized!(AgentLinkServer, LinkApi::new(Arc::clone(app))))
        .add_service(sized!(SegmentsServer, app.transfers.clone()))
        .add_service(sized!(ControllerServer, ControllerApi::new(Arc::clone(app))))
        .add_service(sized!(HostsServer, HostsApi::new(Arc::clone(app))))
        .add_service(sized!(AgentsServer, AgentsApi::new(app)))
        .add_service(sized!(ImagesServer, Images::new(app)))
        .add_service(sized!(FleetsServer, Fleets::new(app)))
        .add_service(sized!(RolloutsServer, Rollouts::new(app)))
        .add_service(sized!(InstancesServer, Instances::new(app)))
        .add_service(sized!(EventsServer, EventsApi::new(app)))
        .add_service(sized!(SecretsServer, SecretsApi::new(app)));
    let (_reporter, health) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // grpcurl of some years asks for the older of the two.
    routes
        .add_service(health)
        .add_service(reflection().build_v1().map_err(ServeError::Reflection)?)
        .add_service(reflection().build_v1alpha().map_err(ServeError::Reflection)?);
    Ok(routes.routes())
}

/// Everything that goes on without being called. Each task ends with `app.shutdown`.
fn spawn_tasks(app: &Arc<App>, server: ReloadableIdentity) {
    app.tasks.spawn(app.live.clone().keep(app.shutdown.clone()));
    app.tasks.spawn(app.events.clone().keep(app.shutdown.clone()));
    app.tasks.spawn(desired::follow(Arc::clone(app)));
    let (records, live) = (app.records.clone(), app.live.clone());
    app.tasks.spawn(rollout_driver::run(records.clone(), live.clone(), app.shutdown.clone()));
    app.tasks.spawn(images_api::staging::keep(records.clone(), live.clone(), app.shutdown.clone()));
    app.tasks.spawn(peers::run(records, live, app.shutdown.clone()));
    app.tasks.spawn(prune::run(Arc::clone(app)));
    app.tasks.spawn(renew_server(Arc::clone(app), server));
}

fn main_port(app: &App, server: &ReloadableIdentity) -> Result<Listener, ServeError> {
    let limits = Limits { max_connections: app.config.limits.connections, ..Limits::default() };
    let setup = setup(app.authority.server_config(server), limits);
    Listener::bind(app.config.listen, setup, &app.shutdown)
        .map_err(|error| ServeError::Listen(error, "listen"))
}

fn enrol_port(app: &App, server: &ReloadableIdentity) -> Result<Listener, ServeError> {
    let limits = Limits {
        max_connections: app.config.limits.enrol_connections,
        max_handshakes: 64,
        max_handshakes_per_peer: 16,
        ..Limits::default()
    };
    let setup = setup(shoal_tls::enrol_server_config(server), limits);
    Listener::bind(app.config.enrol_listen, setup, &app.shutdown)
        .map_err(|error| ServeError::Listen(error, "enrol-listen"))
}

/// Nobody is turned away at the door: who was removed is told so by each call (`access`).
fn setup(tls: Arc<tokio_rustls::rustls::ServerConfig>, limits: Limits) -> Setup {
    let (_sender, tls) = watch::channel(tls);
    Setup { tls, limits, clock: Arc::new(clock::system_time), admit: Arc::new(|_| true) }
}

fn serve_main(app: &Arc<App>, listener: Listener) -> Result<JoinHandle<()>, ServeError> {
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .max_concurrent_streams(app.config.limits.calls_per_connection)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window(app.config.limits.sessions_per_host))
        .layer(AccessLayer::new(Arc::clone(app)))
        .add_routes(routes(app)?)
        .serve_with_incoming_shutdown(listener, app.shutdown.clone().cancelled_owned());
    Ok(tokio::spawn(logged("main", serving)))
}

/// Bytes that all calls of a connection may send ahead of their readers. A session whose reader
/// stands still fills its own window; were that of the connection full too, it would hold up the
/// host's other sessions and its heartbeats, which come over the same connection.
fn connection_window(sessions: usize) -> u32 {
    let windows = u32::try_from(sessions.saturating_add(WINDOWS_BESIDES)).unwrap_or(u32::MAX);
    // HTTP/2 knows no larger one.
    windows.saturating_mul(STREAM_WINDOW).min(i32::MAX.unsigned_abs())
}

fn serve_enrol(app: &Arc<App>, listener: Listener) -> JoinHandle<()> {
    let service = EnrolServer::new(EnrolApi::new(Arc::clone(app)))
        .max_decoding_message_size(ENROL_MESSAGE)
        .max_encoding_message_size(ENROL_MESSAGE);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .max_concurrent_streams(ENROL_CALLS)
        .max_connection_age(ENROL_AGE)
        .max_connection_age_grace(DRAIN)
        .timeout(DRAIN)
        .add_service(service)
        .serve_with_incoming_shutdown(listener, app.shutdown.clone().cancelled_owned());
    tokio::spawn(logged("enrolment", serving))
}

async fn logged(
    port: &'static str,
    serving: impl Future<Output = Result<(), tonic::transport::Error>>,
) {
    if let Err(error) = serving.await {
        tracing::error!(port, error = chain(&error), "a port stopped serving");
    }
}

/// Renews the server's certificate in place when its end comes near; connections live on.
async fn renew_server(app: Arc<App>, server: ReloadableIdentity) {
    let mut ticks = tokio::time::interval(SERVER_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while app.shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let addresses = &app.config.addresses;
        match app.authority.renew_server(&server, addresses, clock::system_time()) {
            Ok(true) => tracing::info!("server certificate renewed"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot renew the server's certificate");
            }
        }
    }
}
