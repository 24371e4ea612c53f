//! Sessions, with an agent that opens them when it is asked.

use shoal_controller::refusal::Refusal;
use shoal_controller::sessions::Session;
use shoal_proto::v1::{
    LogsSession, SessionDown, SessionUp, controller_message, open_session, session_down, session_up,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::agent::{Agent, Stream};
use crate::stand::{PATIENCE, Stand};

fn logs() -> open_session::Kind {
    open_session::Kind::Logs(LogsSession {
        instance: "app/main".into(),
        lines: 1,
        follow: true,
        filter: None,
    })
}

/// The agent's ends of a session.
struct Call {
    up: mpsc::Sender<SessionUp>,
    down: Streaming<SessionDown>,
}

impl Call {
    async fn open(stream: &mut Stream, session_id: String) -> Self {
        let (up, receiver) = mpsc::channel(8);
        let down = stream.link.session(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let call = Self { up, down };
        call.say(session_up::Message::SessionId(session_id)).await;
        call
    }

    async fn say(&self, message: session_up::Message) {
        self.up.send(SessionUp { message: Some(message) }).await.unwrap();
    }
}

async fn asked(stream: &mut Stream) -> String {
    match stream.hear().await {
        controller_message::Message::OpenSession(open) => {
            assert_eq!(open.kind, Some(logs()));
            open.session_id
        }
        other => panic!("{other:?}"),
    }
}

async fn open(stand: &Stand, agent: &Agent, stream: &mut Stream) -> (Session, Call) {
    let answering = async {
        let id = asked(stream).await;
        Call::open(stream, id).await
    };
    let opening = stand.app().live.open_session(&agent.id, logs());
    let (session, call) = tokio::join!(opening, answering);
    (session.unwrap(), call)
}

#[tokio::test]
async fn messages_go_both_ways_until_the_agent_ends_it() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut stream = agent.connect(&stand).await;
    let (mut session, mut call) = open(&stand, &agent, &mut stream).await;

    session.down.send(session_down::Message::Stdin("in".into())).await.unwrap();
    let heard = call.down.message().await.unwrap().unwrap().message;
    assert_eq!(heard, Some(session_down::Message::Stdin("in".into())));
    for n in 0..100 {
        let line = session_up::Message::Stdout(format!("{n}").into());
        tokio::join!(call.say(line.clone()), async {
            assert_eq!(session.up.recv().await, Some(line.clone()));
        });
    }
    call.say(session_up::Message::ExitCode(3)).await;
    let Call { up, mut down } = call;
    drop(up);
    assert_eq!(session.up.recv().await, Some(session_up::Message::ExitCode(3)));
    assert_eq!(session.up.recv().await, None);
    assert!(down.message().await.unwrap().is_none());
    assert!(session.down.send(session_down::Message::StdinClosed(true)).await.is_err());
}

#[tokio::test]
async fn dropping_the_session_ends_the_agents_call() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut stream = agent.connect(&stand).await;
    let (session, mut call) = open(&stand, &agent, &mut stream).await;
    let Session { mut up, down } = session;
    drop(down);
    call.say(session_up::Message::Stdout("still there".into())).await;
    assert!(up.recv().await.is_some());
    drop(up);
    let end = timeout(PATIENCE, call.down.message()).await.expect("the call lives on");
    assert!(end.unwrap().is_none());
}

#[tokio::test]
async fn who_does_not_read_holds_up_the_agent() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut stream = agent.connect(&stand).await;
    let (mut session, call) = open(&stand, &agent, &mut stream).await;
    let chunk = session_up::Message::Stdout(vec![0; 1 << 20].into());
    let mut sent = 0;
    let flooding = async {
        loop {
            call.say(chunk.clone()).await;
            sent += 1;
        }
    };
    assert!(timeout(std::time::Duration::from_secs(2), flooding).await.is_err());
    assert!(sent < 40, "{sent} MiB went somewhere");
    for _ in 0..sent {
        assert!(session.up.recv().await.is_some());
    }
}

#[tokio::test]
async fn no_other_host_can_take_a_session() {
    let stand = Stand::new().await;
    let (agent, other) = (stand.host("web-1").await, stand.host("web-2").await);
    let (mut stream, mut thief) = (agent.connect(&stand).await, other.connect(&stand).await);
    let answering = async {
        let id = asked(&mut stream).await;
        let mut stolen = Call::open(&mut thief, id.clone()).await;
        let status = stolen.down.message().await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        Call::open(&mut stream, id).await
    };
    let opening = stand.app().live.open_session(&agent.id, logs());
    let (session, _call) = tokio::join!(opening, answering);
    assert!(session.is_ok());
}

#[tokio::test]
async fn there_is_a_limit_and_it_is_given_back() {
    let stand = Stand::with(|config| config.limits.sessions_per_host = 1).await;
    let agent = stand.host("web-1").await;
    let mut stream = agent.connect(&stand).await;
    let (session, _call) = open(&stand, &agent, &mut stream).await;
    let refusal = stand.app().live.open_session(&agent.id, logs()).await.unwrap_err();
    assert!(matches!(&refusal, Refusal::Exhausted(text) if text.contains("web-1")), "{refusal}");
    drop(session);
    let mut again = None;
    crate::stand::until("a session fits again", async || {
        let opening = stand.app().live.open_session(&agent.id, logs());
        let answering = async {
            // Nothing is asked where the limit still holds.
            let id =
                timeout(std::time::Duration::from_millis(200), asked(&mut stream)).await.ok()?;
            Some(Call::open(&mut stream, id).await)
        };
        let (session, call) = tokio::join!(opening, answering);
        again = call;
        session.is_ok()
    })
    .await;
    assert!(again.is_some());
}

#[tokio::test]
async fn an_offline_host_is_named() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let refusal = stand.app().live.open_session(&agent.id, logs()).await.unwrap_err();
    assert!(
        matches!(&refusal, Refusal::Unavailable(text) if text.contains("host web-1 is offline"))
    );
    drop(agent.connect(&stand).await);
    crate::stand::until("offline", async || !stand.app().live.is_connected(&agent.id)).await;
    let text = stand.app().live.open_session(&agent.id, logs()).await.unwrap_err().to_string();
    assert!(text.contains("since 20"), "{text}");
}
