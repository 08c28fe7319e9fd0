//! `lb real-server`: makes this host a real server of a virtual address, and undoes it.
//!
//! Must not know: what is done for it.

use crate::cli::args::{RealServer, RealServerCommand, ServerMethod};
use crate::cli::{output, runtime};
use crate::real_server::{self, Method, Wanted};

pub(super) fn run(arguments: &RealServer) -> anyhow::Result<()> {
    let mut say = |line: &str| output::print(format!("{line}\n").as_bytes());
    let runtime = runtime()?;
    match &arguments.command {
        RealServerCommand::Setup(setup) => {
            let method = match setup.method {
                ServerMethod::Dr => Method::Dr,
                ServerMethod::Tunnel => Method::Tunnel,
            };
            anyhow::ensure!(
                method == Method::Tunnel || setup.interface.is_empty(),
                "--interface says where tunnelled packets come in: it goes with --method tunnel"
            );
            let interfaces = setup.interface.clone();
            let wanted = Wanted { vip: setup.place.vip, method, interfaces };
            runtime.block_on(real_server::setup(&setup.place.state_dir, &wanted, &mut say))
        }
        RealServerCommand::Undo(place) => {
            runtime.block_on(real_server::undo(&place.state_dir, place.vip, &mut say))
        }
    }
}
