//! `lb connections`, listed like `ipvsadm -Lnc`.
//!
//! Must not know: sockets, where a document came from.

use crate::cli::render::table::{Align, table};
use crate::controller::document::Connections;

/// The whole text.
pub fn connections(document: &Connections) -> String {
    let header = ["pro", "expire", "state", "source", "virtual", "destination", "service", "flags"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(document.connections.iter().map(|connection| {
        vec![
            connection.protocol.to_uppercase(),
            expire(connection.expires_s),
            connection.state.clone(),
            connection.client.clone(),
            connection.virtual_address.clone(),
            connection.real.clone(),
            connection.service.clone(),
            connection.flags.join(","),
        ]
    }));
    let mut text = table(&[Align::Left; 8], &rows);
    let shown = document.connections.len();
    if u64::try_from(shown).is_ok_and(|shown| shown < document.total) {
        text.push_str(&format!("{shown} of {}; --limit N shows more\n", document.total));
    }
    text
}

/// Minutes and seconds, as ipvsadm.
fn expire(seconds: u64) -> String {
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::document::Connection;

    #[test]
    fn connections_are_listed_like_ipvsadm() {
        let connection = Connection {
            service: "web".into(),
            protocol: "tcp".into(),
            client: "10.0.0.9:40000".into(),
            virtual_address: "192.168.20.50:80".into(),
            real: "192.168.20.233:80".into(),
            state: "ESTABLISHED".into(),
            flags: Vec::new(),
            expires_s: 899,
        };
        let document = Connections { connections: vec![connection], total: 3 };
        let expected = "\
pro expire state       source         virtual          destination       service flags
TCP 14:59  ESTABLISHED 10.0.0.9:40000 192.168.20.50:80 192.168.20.233:80 web
1 of 3; --limit N shows more
";
        assert_eq!(connections(&document), expected);
    }
}
