//! The metrics of the certificates at the admin API's port. Where there is no port there are the families and no numbers.

use super::certificates::CertificatesView;
use super::exposition::{Kind, Writer};

/// All of them.
pub(super) fn write(writer: &mut Writer, certificates: Option<&CertificatesView>) {
    let name = "kvtier_admin_tls_end_timestamp_seconds";
    let help = "When the certificates in use expire: the first of admin.tls-certificate, the last of admin.tls-client-ca.";
    writer.family(name, Kind::Gauge, help);
    if let Some(it) = certificates {
        writer.number(&[("file", "certificate")], it.certificate_end_s);
        writer.number(&[("file", "client-ca")], it.client_ca_end_s);
    }
    let name = "kvtier_admin_tls_reads";
    let help = "Changed files of certificates, by whether they could be used.";
    writer.family(name, Kind::Counter, help);
    if let Some(it) = certificates {
        writer.number(&[("outcome", "taken")], it.taken);
        writer.number(&[("outcome", "refused")], it.refused);
    }
    let name = "kvtier_admin_tls_out_of_date";
    let help = "1 while the files cannot be used, and what was read before them is.";
    writer.family(name, Kind::Gauge, help);
    if let Some(it) = certificates {
        writer.number(&[], u64::from(it.is_out_of_date));
    }
}
