//! Connections to a server: one that all commands share, and one for each receiver that waits. A broken one is left, and the next call
//! makes another; no call is repeated here.

use super::address::RedisAddress;
use super::fault;
use crate::queue::QueueError;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisConnectionInfo, RedisError, ScriptInvocation, Value};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Longest that a new connection may take: what is not there is to be reported within five seconds.
const CONNECT: Duration = Duration::from_secs(4);

/// Longest that the answer to a command may take, and how much longer than asked for one that waits. A connection whose other end has
/// vanished is noticed by this.
const CALL: Duration = Duration::from_secs(5);

/// Connections of receivers that are kept while nobody waits: one for each look that a few workers in one process have under way.
const KEPT: usize = 8;

/// See the head of this file.
pub(super) struct Link {
    client: Client,
    user: Option<String>,
    password: Option<String>,
    database: i64,
    place: String,
    shared: tokio::sync::Mutex<Shared>,
    waiting: Mutex<Vec<MultiplexedConnection>>,
}

/// The connection that all commands share, and how many there were before.
#[derive(Default)]
struct Shared {
    number: u64,
    connection: Option<MultiplexedConnection>,
}

impl Link {
    /// Connects to nothing yet.
    pub fn new(address: &RedisAddress) -> Result<Self, QueueError> {
        let settings = address.server.redis_settings();
        // Who we are is said by commands of our own: the library hides what the server answers to its.
        let plain = RedisConnectionInfo::default().set_skip_set_lib_name();
        let server = address.server.clone().set_redis_settings(plain);
        let place = address.to_string();
        Ok(Self {
            client: Client::open(server).map_err(|error| fault::of(&error, &place))?,
            user: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            database: settings.db(),
            place,
            shared: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
        })
    }

    /// A script's answer.
    pub async fn invoke<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, QueueError> {
        let (number, mut connection) = self.shared().await?;
        let answer = timeout(CALL, call.invoke_async(&mut connection)).await;
        self.judge(number, answer).await
    }

    /// A command's answer.
    pub async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, QueueError> {
        let (number, mut connection) = self.shared().await?;
        let answer = timeout(CALL, command.query_async(&mut connection)).await;
        self.judge(number, answer).await
    }

    /// Waits until one of the streams has an entry after the id that stands beside it, but not for longer than that. It takes nothing:
    /// whoever is cut off here, by whatever, has no message that others would miss.
    pub async fn listen(&self, streams: &[(&str, &str)], longest: Duration) -> Result<(), QueueError> {
        let kept = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        // Zero would be for ever.
        let ms = longest.as_millis().max(1) as u64;
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(ms).arg("STREAMS");
        command.arg(streams.iter().map(|(key, _)| *key).collect::<Vec<_>>()).arg(streams.iter().map(|(_, id)| *id).collect::<Vec<_>>());
        match timeout(longest + CALL, command.query_async::<Value>(&mut connection)).await {
            Ok(Ok(_)) => {
                let mut kept = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < KEPT {
                    kept.push(connection);
                }
                Ok(())
            }
            Ok(Err(error)) => Err(fault::of(&error, &self.place)),
            Err(_) => Err(self.late(longest + CALL)),
        }
    }

    /// The shared connection, and its number.
    async fn shared(&self) -> Result<(u64, MultiplexedConnection), QueueError> {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = &shared.connection {
            return Ok((shared.number, connection.clone()));
        }
        let connection = self.connect().await?;
        shared.number += 1;
        shared.connection = Some(connection.clone());
        Ok((shared.number, connection))
    }

    async fn judge<T>(&self, number: u64, answer: Result<Result<T, RedisError>, tokio::time::error::Elapsed>) -> Result<T, QueueError> {
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if !fault::ends_connection(&error) => return Err(fault::of(&error, &self.place)),
            Ok(Err(error)) => fault::of(&error, &self.place),
            Err(_) => self.late(CALL),
        };
        let mut shared = self.shared.lock().await;
        // Not one that another call has made meanwhile.
        if shared.number == number {
            shared.connection = None;
        }
        Err(error)
    }

    /// A new connection, as the right user and in the right database.
    async fn connect(&self) -> Result<MultiplexedConnection, QueueError> {
        let connecting = async {
            // Each call has a limit of its own.
            let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            if let Some(password) = &self.password {
                let mut auth = redis::cmd("AUTH");
                auth.arg(self.user.as_deref()).arg(password.as_str()).query_async::<()>(&mut connection).await?;
            }
            if self.database != 0 {
                redis::cmd("SELECT").arg(self.database).query_async::<()>(&mut connection).await?;
            }
            Ok(connection)
        };
        match timeout(CONNECT, connecting).await {
            Ok(connected) => connected.map_err(|error| fault::of(&error, &self.place)),
            Err(_) => Err(self.late(CONNECT)),
        }
    }

    fn late(&self, limit: Duration) -> QueueError {
        QueueError::Unavailable(format!("{}: no answer within {limit:?}; is the server up and reachable from here?", self.place))
    }
}
