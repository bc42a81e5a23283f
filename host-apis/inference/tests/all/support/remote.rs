//! A second kind of device: any device, behind a socket. A message is its header as JSON and its payload as it is, each
//! with its length before it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_inference::plan::{Command, DEPTH, Event};
use shoal_inference::{Device, DeviceGone, DeviceInfo, Payload};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const MESSAGES_MAX: usize = 1 + 2 * DEPTH;

/// The near end: looks like a device in this process.
pub(crate) struct RemoteDevice {
    info: DeviceInfo,
    commands: mpsc::Sender<(Command, Payload)>,
    events: mpsc::Receiver<(Event, Payload)>,
    _tasks: JoinSet<()>,
}

/// Both ends: the far one hosts `device` in a task of `host`, which may be ended at any time.
pub(crate) fn over_a_socket<D: Device>(device: D, host: &mut JoinSet<()>) -> RemoteDevice {
    let (near, far) = UnixStream::pair().expect("a socket pair");
    let info = device.describe();
    host.spawn(async move {
        // The near end hears of an end by the end of the stream.
        let _ = serve(device, far).await;
    });
    let (mut from, mut to) = near.into_split();
    let (commands, mut commanded) = mpsc::channel::<(Command, Payload)>(MESSAGES_MAX);
    let (answers, events) = mpsc::channel(MESSAGES_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some((command, payload)) = commanded.recv().await {
            if write(&mut to, &command, &payload).await.is_err() {
                return;
            }
        }
    });
    tasks.spawn(async move {
        while let Ok((event, payload)) = read(&mut from).await {
            if answers
                .send((event, Payload::Owned(payload)))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    RemoteDevice {
        info,
        commands,
        events,
        _tasks: tasks,
    }
}

impl Device for RemoteDevice {
    fn describe(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn send(&mut self, command: Command, payload: Payload) -> Result<(), DeviceGone> {
        self.commands
            .try_send((command, payload))
            .map_err(|_| DeviceGone)
    }

    async fn recv(&mut self) -> Option<(Event, Payload)> {
        self.events.recv().await
    }
}

/// The far end.
async fn serve<D: Device>(mut device: D, stream: UnixStream) -> io::Result<()> {
    let (mut from, mut to) = stream.into_split();
    let (commands, mut commanded) = mpsc::channel(MESSAGES_MAX);
    // Reading is not cancel safe, so it has a task of its own.
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        while let Ok(message) = read::<Command>(&mut from).await {
            if commands.send(message).await.is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            command = commanded.recv() => match command {
                Some((command, payload)) => {
                    let sent = device.send(command, Payload::Owned(payload));
                    sent.map_err(io::Error::other)?;
                }
                None => return Ok(()),
            },
            event = device.recv() => match event {
                Some((event, payload)) => write(&mut to, &event, &payload).await?,
                None => return Ok(()),
            },
        }
    }
}

async fn write(to: &mut OwnedWriteHalf, header: &impl Serialize, payload: &[u8]) -> io::Result<()> {
    for part in [serde_json::to_vec(header)?.as_slice(), payload] {
        to.write_u64(part.len() as u64).await?;
        to.write_all(part).await?;
    }
    Ok(())
}

async fn read<H: DeserializeOwned>(from: &mut OwnedReadHalf) -> io::Result<(H, Vec<u8>)> {
    let header = read_part(from).await?;
    let payload = read_part(from).await?;
    Ok((serde_json::from_slice(&header)?, payload))
}

async fn read_part(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let len = from.read_u64().await?;
    let mut part = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    from.read_exact(&mut part).await?;
    Ok(part)
}
