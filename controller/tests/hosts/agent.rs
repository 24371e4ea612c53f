//! An agent that does what a test tells it to.

use shoal_core::name::HostId;
use shoal_proto::v1::agent_link_client::AgentLinkClient;
use shoal_proto::v1::{
    AgentMessage, ControllerMessage, Heartbeat, Hello, HostFacts, HostStatus, JoinResponse,
    SpecRefused, agent_message, controller_message,
};
use shoal_tls::{CertificateInfo, LeafKey, ReloadableIdentity};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::stand::{PATIENCE, Stand};

pub(crate) struct Agent {
    pub(crate) id: HostId,
    pub(crate) name: String,
    pub(crate) key: LeafKey,
    pub(crate) chain: String,
}

impl Agent {
    pub(crate) fn new(name: &str, key: &LeafKey, response: JoinResponse) -> Self {
        Self {
            id: response.host_id.parse().unwrap(),
            name: name.into(),
            key: LeafKey::from_pem(&key.to_pem()).unwrap(),
            chain: response.certificate_chain,
        }
    }

    pub(crate) fn own(&self) -> ReloadableIdentity {
        ReloadableIdentity::from_pem(&self.chain, &self.key.to_pem()).unwrap()
    }

    pub(crate) fn info(&self) -> CertificateInfo {
        CertificateInfo::from_pem(&self.chain).unwrap()
    }

    pub(crate) async fn link(&self, stand: &Stand) -> AgentLinkClient<Channel> {
        AgentLinkClient::new(stand.channel(&self.own()).await)
            .max_decoding_message_size(shoal_proto::LARGEST_MESSAGE)
    }

    /// Opens the stream without a word.
    pub(crate) async fn open(&self, stand: &Stand) -> Stream {
        let mut link = self.link(stand).await;
        let (up, receiver) = mpsc::channel(8);
        let down = link.connect(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Stream { up, down, link }
    }

    /// Opens the stream, says hello and is welcomed.
    pub(crate) async fn connect(&self, stand: &Stand) -> Stream {
        let mut stream = self.open(stand).await;
        stream.say(agent_message::Message::Hello(hello())).await;
        let first = stream.hear().await;
        assert!(matches!(first, controller_message::Message::Welcome(_)), "{first:?}");
        stream
    }
}

pub(crate) fn hello() -> Hello {
    let facts = HostFacts {
        os: "Debian GNU/Linux 12".into(),
        cpus: 4,
        disk_free: 100,
        idmapped_squashfs: true,
        ..HostFacts::default()
    };
    Hello { facts: Some(facts), accepted_generation: 0, epoch: 0 }
}

/// An agent's open stream.
pub(crate) struct Stream {
    pub(crate) up: mpsc::Sender<AgentMessage>,
    pub(crate) down: Streaming<ControllerMessage>,
    pub(crate) link: AgentLinkClient<Channel>,
}

impl Stream {
    pub(crate) async fn say(&self, message: agent_message::Message) {
        self.up.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn heartbeat(&self, disk_free: u64) {
        self.say(agent_message::Message::Heartbeat(Heartbeat { disk_free })).await;
    }

    pub(crate) async fn report(&self, status: HostStatus) {
        self.say(agent_message::Message::Status(status)).await;
    }

    pub(crate) async fn refuse(&self, generation: u64, reason: &str) {
        let reason = reason.into();
        self.say(agent_message::Message::Refused(SpecRefused { generation, reason })).await;
    }

    pub(crate) async fn hear(&mut self) -> controller_message::Message {
        let message = timeout(PATIENCE, self.down.message()).await.expect("nothing came");
        message.unwrap().expect("the stream ended").message.unwrap()
    }

    /// The generation of the desired state that comes next.
    pub(crate) async fn hear_generation(&mut self) -> u64 {
        match self.hear().await {
            controller_message::Message::Desired(spec) => spec.generation,
            other => panic!("{other:?}"),
        }
    }

    /// Why the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            match timeout(PATIENCE, self.down.message()).await.expect("it lives on") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a reason"),
                Err(status) => return status,
            }
        }
    }
}
