//! An address with what the environment adds to it, and connections to it.

use std::path::{Path, PathBuf};

use tokio_postgres::{
    Client, Config, Connection, Error, Socket,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    parameters::{self, Parameters},
    password_file::{self, Target},
    tls::Tls,
};

/// What drives a [`Client`]: to be spawned as a task, or nothing is sent or received.
pub type Connecting = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// An address that cannot be used, and why; never with a part of it that may be of a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(String);

/// How far a connection over a network is protected, as libpq's `sslmode` names it. Sockets of the
/// same machine are never encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Security {
    /// `disable`: not at all.
    Disable,
    /// `prefer`: encrypted if the server offers TLS; its identity is not verified. The default.
    Prefer,
    /// `require`: encrypted; the server's identity is not verified unless `sslrootcert` is given.
    Require,
    /// `verify-ca`: encrypted, with a server whose certificate comes from a trusted authority.
    VerifyCa,
    /// `verify-full`: encrypted, with the very server that is named.
    VerifyFull,
}

/// Where a database is, and how to get in.
#[derive(Clone, Debug)]
pub struct Address {
    config: Config,
    tls: Tls,
}

/// Environment variables that stand for a parameter which the address leaves out.
const VARIABLES: [(&str, &str); 16] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGDATABASE", "dbname"),
    ("PGPASSFILE", "passfile"),
    ("PGOPTIONS", "options"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGCHANNELBINDING", "channel_binding"),
];

/// Parameters that the driver reads.
const DRIVERS: [&str; 18] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "load_balance_hosts",
    "channel_binding",
    "sslnegotiation",
];
/// Parameters that are read here.
const OURS: [&str; 6] = ["passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword"];
/// Parameters of libpq's that change nothing here where they have one of these values.
const WITHOUT_EFFECT: [(&str, &[&str]); 6] = [
    ("client_encoding", &["utf8", "UTF8", "auto"]),
    ("gssencmode", &["disable", "prefer"]),
    ("sslcompression", &["0"]),
    ("sslsni", &["0", "1"]),
    ("sslcertmode", &["allow", "disable"]),
    ("ssl_min_protocol_version", &["TLSv1.2"]),
];

/// Folders where a server of this machine puts its socket by default.
const SOCKET_FOLDERS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

impl Address {
    /// Reads an address in either of libpq's two forms. What it leaves out comes from libpq's
    /// environment variables, then from the password file, then from libpq's defaults; so an empty
    /// text is an address, too. `environment` gives the value of a variable.
    ///
    /// # Errors
    ///
    /// Names the parameter that is wrong and what to write instead.
    pub fn parse(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, InvalidAddress> {
        let mut given = parameters::parse(text).map_err(InvalidAddress)?;
        check(&given)?;
        for (variable, name) in VARIABLES {
            if !given.contains_key(name)
                && let Some(value) = environment(variable).filter(|value| !value.is_empty())
            {
                given.insert(name.into(), value);
            }
        }
        if !given.contains_key("host") {
            let port = given.get("port").map_or("5432", String::as_str);
            // What a certificate is for is a name, or the address where there is none.
            let host = given.get("hostaddr").cloned().unwrap_or_else(|| default_host(port));
            given.insert("host".into(), host);
        }
        let home = environment("HOME").map(PathBuf::from);
        if !given.contains_key("password")
            && let Some(password) = of_file(&given, environment, home.as_deref())?
        {
            given.insert("password".into(), password);
        }
        let tls = Tls::of(&given, home.as_deref()).map_err(InvalidAddress)?;
        let mut config = driver_config(&given)?;
        // A socket of this machine is never encrypted.
        let is_local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        config.ssl_mode(if is_local { SslMode::Disable } else { tls.mode() });
        Ok(Address { config, tls })
    }

    /// What the driver makes of it.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same, to be changed: time-outs, keepalives, the application's name.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// How far connections over a network are protected.
    pub fn security(&self) -> Security {
        self.tls.security()
    }

    /// Where it is, for people: without the password, and with libpq's defaults for what is left
    /// out.
    pub fn place(&self) -> String {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate().map(|(number, host)| {
            let port = ports.get(number).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(folder) => format!("{}:{port}", folder.display()),
            }
        });
        let hosts = hosts.collect::<Vec<_>>().join(" or ");
        let user = self.config.get_user().unwrap_or("the user of this system");
        let name = self.config.get_dbname().unwrap_or(user);
        format!("{name} at {hosts} as {user}")
    }

    /// Opens a connection. The second part is to be spawned.
    ///
    /// # Errors
    ///
    /// Those of the driver: [`Trouble`](super::Trouble) tells them apart.
    pub async fn connect(&self) -> Result<(Client, Connecting), Error> {
        // What TLS needs for a handshake would be a part of every future that connects.
        Box::pin(self.config.connect(self.tls.connector())).await
    }

    /// The same, under another application's name.
    ///
    /// # Errors
    ///
    /// As of [`connect`](Self::connect).
    pub async fn connect_as(&self, application: &str) -> Result<(Client, Connecting), Error> {
        let mut config = self.config.clone();
        config.application_name(application);
        Box::pin(config.connect(self.tls.connector())).await
    }

    /// What encrypts a further connection to the same server, as cancelling a statement needs.
    pub fn tls(&self) -> MakeRustlsConnect {
        self.tls.connector()
    }
}

/// Refuses parameters that are unknown, or known and without effect here.
fn check(given: &Parameters) -> Result<(), InvalidAddress> {
    for (name, value) in given {
        if DRIVERS.contains(&&**name) || OURS.contains(&&**name) {
            continue;
        }
        let why = match WITHOUT_EFFECT.iter().find(|(known, _)| known == name) {
            Some((_, values)) if values.contains(&&**value) => continue,
            Some((_, values)) => format!("{name} may only be {} here; leave it out", values.join(" or ")),
            None => format!("there is no parameter `{}`, or none that is supported", cut(name)),
        };
        return Err(InvalidAddress(why));
    }
    Ok(())
}

/// A name in an error: short, and on one line.
fn cut(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(40).collect()
}

/// Where a server of this machine listens, if one may: libpq's folder for sockets, or Debian's.
fn default_host(port: &str) -> String {
    let listens = |folder: &&&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_FOLDERS.iter().find(listens).map_or("localhost", |folder| *folder).into()
}

fn of_file(
    given: &Parameters,
    environment: &dyn Fn(&str) -> Option<String>,
    home: Option<&Path>,
) -> Result<Option<String>, InvalidAddress> {
    let named = given.get("passfile").map(PathBuf::from);
    let Some(path) = named.or_else(|| home.map(|home| home.join(".pgpass"))) else { return Ok(None) };
    let first = |name: &str| given.get(name).and_then(|list| list.split(',').next()).filter(|one| !one.is_empty());
    let user = first("user").map(String::from).or_else(|| environment("USER")).unwrap_or_default();
    let host = first("host").or(first("hostaddr")).unwrap_or("localhost");
    let target = Target {
        // A socket in the usual folder goes by that name.
        host: if SOCKET_FOLDERS.contains(&host) { "localhost" } else { host },
        port: first("port").unwrap_or("5432"),
        database: first("dbname").unwrap_or(&user),
        user: &user,
    };
    password_file::find(&path, given.contains_key("passfile"), &target).map_err(InvalidAddress)
}

/// The driver's part. Its own errors may quote a value, so each parameter is tried alone.
fn driver_config(given: &Parameters) -> Result<Config, InvalidAddress> {
    let mut all = String::new();
    for name in DRIVERS {
        let Some(value) = given.get(name) else { continue };
        let pair = format!("{name}='{}' ", value.replace('\\', "\\\\").replace('\'', "\\'"));
        if pair.parse::<Config>().is_err() {
            return Err(InvalidAddress(format!("{name} has a value that it cannot have")));
        }
        all.push_str(&pair);
    }
    let config: Config = all.parse().map_err(|_| InvalidAddress("its parameters contradict each other".into()))?;
    let (hosts, addresses, ports) = (config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len());
    if hosts > 0 && addresses > 0 && hosts != addresses {
        return Err(InvalidAddress("hostaddr has to name an address for each host, or be left out".into()));
    }
    if ports > 1 && ports != hosts.max(addresses) {
        return Err(InvalidAddress("port has to name one for all hosts, or one for each".into()));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, environment: &[(&str, &str)]) -> Result<Address, String> {
        let value =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        Address::parse(text, &value).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_stands_for_what_is_left_out() {
        let environment = [
            ("PGHOST", "env"),
            ("PGPORT", "7"),
            ("PGUSER", "u"),
            ("PGDATABASE", "d"),
            ("PGPASSWORD", "p"),
            ("PGSSLMODE", "require"),
        ];
        let all = address("", &environment).unwrap();
        assert_eq!((all.place().as_str(), all.security()), ("d at env:7 as u", Security::Require));
        assert_eq!(all.config().get_password(), Some(&b"p"[..]));
        let some = address("postgresql://me@h/mine?sslmode=disable", &environment).unwrap();
        assert_eq!((some.place().as_str(), some.security()), ("mine at h:7 as me", Security::Disable));
        let numbered = address("", &[("PGHOSTADDR", "10.0.0.5")]).unwrap();
        assert_eq!(numbered.config().get_hosts(), [Host::Tcp("10.0.0.5".into())]);
        let local = address("host=/run/pg sslmode=require", &[]).unwrap();
        assert_eq!(local.config().get_ssl_mode(), SslMode::Disable, "as with libpq");
        let none = address("", &[("PGHOST", "")]).unwrap();
        assert_eq!(none.security(), Security::Prefer);
        assert!(!none.config().get_hosts().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_is() {
        let cases = [
            ("postgres://u:my@secret@h/d", "more than one `@`"),
            ("host=h sslmode=allow", "sslmode"),
            ("host=h sslmode=secret", "sslmode may be"),
            ("host=h port=secret", "port has a value"),
            ("host=h sslmod=require", "no parameter `sslmod`"),
            ("host=h service=x", "no parameter `service`"),
            ("host=h gssencmode=require", "gssencmode may only be disable or prefer"),
            ("host=a,b,c port=1,2", "one for all hosts, or one for each"),
            ("host=a,b hostaddr=::1", "an address for each host"),
            ("host=h password=secret channel_binding=x", "channel_binding has a value"),
        ];
        for (text, why) in cases {
            let error = address(text, &[]).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{text}: {error}");
        }
        assert!(address("host=h gssencmode=disable client_encoding=utf8 sslsni=1", &[]).is_ok());
    }

    #[test]
    fn a_value_is_the_same_for_the_driver() {
        let odd = r"it's \ ' odd";
        let text = format!("host=h password='{}'", odd.replace('\\', "\\\\").replace('\'', "\\'"));
        assert_eq!(address(&text, &[]).unwrap().config().get_password(), Some(odd.as_bytes()));
    }
}
