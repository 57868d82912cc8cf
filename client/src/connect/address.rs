//! The address of a database, completed from the environment, and connections to it.

use std::path::{Path, PathBuf};

use tokio_postgres::{
    Client, Config, Error, Socket,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    parameters::{self, Parameters},
    password_file::{self, Target},
    tls::Tls,
};

/// The connection behind a [`Client`], a future. Spawn it as a task: without it nothing is sent or
/// received.
pub type Connection = tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The reason why an address cannot be used. Contains no part of the address that could belong to a
/// password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(String);

/// The protection of a connection over a network: libpq's `sslmode`. Connections over a Unix socket
/// are never encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Security {
    /// `disable`: not encrypted.
    Disable,
    /// `prefer`: encrypted if the server offers TLS. The server's certificate is not verified. The
    /// default.
    Prefer,
    /// `require`: encrypted. The server's certificate is not verified unless `sslrootcert` is
    /// given.
    Require,
    /// `verify-ca`: encrypted. A trusted authority must have issued the server's certificate.
    VerifyCa,
    /// `verify-full`: like `verify-ca`, and the certificate must belong to the named host.
    VerifyFull,
}

/// The address of a database: its servers, the user and its credentials, and the protection.
#[derive(Clone, Debug)]
pub struct Address {
    config: Config,
    tls: Tls,
}

/// Environment variables, each with the parameter that it replaces if the address leaves it out.
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

/// Parameters that the driver handles.
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
/// Parameters that this module handles.
const OURS: [&str; 6] = ["passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword"];
/// Parameters of libpq that have no effect here, with the values that are accepted for them.
const WITHOUT_EFFECT: [(&str, &[&str]); 6] = [
    ("client_encoding", &["utf8", "UTF8", "auto"]),
    ("gssencmode", &["disable", "prefer"]),
    ("sslcompression", &["0"]),
    ("sslsni", &["0", "1"]),
    ("sslcertmode", &["allow", "disable"]),
    ("ssl_min_protocol_version", &["TLSv1.2"]),
];

/// Folders in which a server on this machine has its socket by default.
const SOCKET_FOLDERS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

impl Address {
    /// Parses an address in either of libpq's two forms: a URI, or a list of `NAME=VALUE`. Omitted
    /// parameters come from libpq's environment variables, then from the password file, then from
    /// libpq's defaults. So an empty text is a valid address. `environment` returns the value of a
    /// variable.
    ///
    /// # Errors
    ///
    /// Names the invalid parameter and what to write instead. An unreadable password file or
    /// certificate is an error, too.
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
            // A certificate is for a name or, if there is none, for the address.
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
        // As in libpq: a Unix socket is never encrypted.
        let is_local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        config.ssl_mode(if is_local { SslMode::Disable } else { tls.mode() });
        Ok(Address { config, tls })
    }

    /// The configuration of the driver.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration of the driver, to change timeouts, keepalives, or the application's name.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The protection of connections over a network.
    pub fn security(&self) -> Security {
        self.tls.security()
    }

    /// A summary for people: `DATABASE at HOST:PORT as USER`, without the password. Omitted
    /// parameters show libpq's defaults.
    pub fn summary(&self) -> String {
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

    /// Opens a connection. Spawn the second part as a task.
    ///
    /// # Errors
    ///
    /// Errors of the driver. [`ConnectErrorKind`](super::ConnectErrorKind) classifies them.
    pub async fn connect(&self) -> Result<(Client, Connection), Error> {
        // Boxed, as the state of a TLS handshake would enlarge every future that connects.
        Box::pin(self.config.connect(self.tls.connector())).await
    }

    /// Opens a connection with an `application_name` of its own.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub async fn connect_as(&self, application: &str) -> Result<(Client, Connection), Error> {
        let mut config = self.config.clone();
        config.application_name(application);
        Box::pin(config.connect(self.tls.connector())).await
    }

    /// The TLS connector for a further connection to the same server, which cancelling a statement
    /// needs.
    pub fn tls(&self) -> MakeRustlsConnect {
        self.tls.connector()
    }
}

/// Rejects parameters that are unknown, and values that cannot be honoured.
fn check(given: &Parameters) -> Result<(), InvalidAddress> {
    for (name, value) in given {
        if DRIVERS.contains(&&**name) || OURS.contains(&&**name) {
            continue;
        }
        let why = match WITHOUT_EFFECT.iter().find(|(known, _)| known == name) {
            Some((_, values)) if values.contains(&&**value) => continue,
            Some((_, values)) => format!("{name} may only be {} here; leave it out", values.join(" or ")),
            None => format!("the parameter `{}` is unknown or not supported; correct it or leave it out", cut(name)),
        };
        return Err(InvalidAddress(why));
    }
    Ok(())
}

/// A name for an error message: at most 40 characters, on one line.
fn cut(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(40).collect()
}

/// The socket folder of a server on this machine, libpq's or Debian's, or else `localhost`.
fn default_host(port: &str) -> String {
    let listens = |folder: &&&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_FOLDERS.iter().find(listens).map_or("localhost", |folder| *folder).into()
}

/// The password for these parameters, from the password file.
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
        // The file names a socket in the usual folder `localhost`.
        host: if SOCKET_FOLDERS.contains(&host) { "localhost" } else { host },
        port: first("port").unwrap_or("5432"),
        database: first("dbname").unwrap_or(&user),
        user: &user,
    };
    password_file::find(&path, given.contains_key("passfile"), &target).map_err(InvalidAddress)
}

/// The configuration of the driver. The driver's errors may quote a value, so each parameter is
/// first parsed alone and named in an error of ours.
fn driver_config(given: &Parameters) -> Result<Config, InvalidAddress> {
    let mut all = String::new();
    for name in DRIVERS {
        let Some(value) = given.get(name) else { continue };
        let pair = format!("{name}='{}' ", value.replace('\\', "\\\\").replace('\'', "\\'"));
        if pair.parse::<Config>().is_err() {
            return Err(InvalidAddress(format!("{name} has an invalid value")));
        }
        all.push_str(&pair);
    }
    let config: Config = all.parse().map_err(|_| InvalidAddress("the parameters contradict each other".into()))?;
    let (hosts, addresses, ports) = (config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len());
    if hosts > 0 && addresses > 0 && hosts != addresses {
        return Err(InvalidAddress("hostaddr must have one address per host; correct it or leave it out".into()));
    }
    if ports > 1 && ports != hosts.max(addresses) {
        return Err(InvalidAddress("port must have one number for all hosts, or one per host".into()));
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
    fn omitted_parameters_come_from_the_environment() {
        let environment = [
            ("PGHOST", "env"),
            ("PGPORT", "7"),
            ("PGUSER", "u"),
            ("PGDATABASE", "d"),
            ("PGPASSWORD", "p"),
            ("PGSSLMODE", "require"),
        ];
        let all = address("", &environment).unwrap();
        assert_eq!((all.summary().as_str(), all.security()), ("d at env:7 as u", Security::Require));
        assert_eq!(all.config().get_password(), Some(&b"p"[..]));
        let some = address("postgresql://me@h/mine?sslmode=disable", &environment).unwrap();
        assert_eq!((some.summary().as_str(), some.security()), ("mine at h:7 as me", Security::Disable));
        let numbered = address("", &[("PGHOSTADDR", "10.0.0.5")]).unwrap();
        assert_eq!(numbered.config().get_hosts(), [Host::Tcp("10.0.0.5".into())]);
        let local = address("host=/run/pg sslmode=require", &[]).unwrap();
        assert_eq!(local.config().get_ssl_mode(), SslMode::Disable, "as with libpq");
        let none = address("", &[("PGHOST", "")]).unwrap();
        assert_eq!(none.security(), Security::Prefer);
        assert!(!none.config().get_hosts().is_empty());
    }

    #[test]
    fn errors_name_the_parameter_and_no_password() {
        let cases = [
            ("postgres://u:my@secret@h/d", "more than one `@`"),
            ("host=h sslmode=allow", "sslmode"),
            ("host=h sslmode=secret", "sslmode may be"),
            ("host=h port=secret", "port has an invalid value"),
            ("host=h sslmod=require", "the parameter `sslmod` is unknown"),
            ("host=h service=x", "the parameter `service` is unknown"),
            ("host=h gssencmode=require", "gssencmode may only be disable or prefer"),
            ("host=a,b,c port=1,2", "one number for all hosts, or one per host"),
            ("host=a,b hostaddr=::1", "one address per host"),
            ("host=h password=secret channel_binding=x", "channel_binding has an invalid value"),
        ];
        for (text, why) in cases {
            let error = address(text, &[]).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{text}: {error}");
        }
        assert!(address("host=h gssencmode=disable client_encoding=utf8 sslsni=1", &[]).is_ok());
    }

    #[test]
    fn the_driver_gets_a_quoted_value_unchanged() {
        let odd = r"it's \ ' odd";
        let text = format!("host=h password='{}'", odd.replace('\\', "\\\\").replace('\'', "\\'"));
        assert_eq!(address(&text, &[]).unwrap().config().get_password(), Some(odd.as_bytes()));
    }
}
