//! Usage as CSV in the columns of FOCUS 1.0 (FinOps Open Cost and Usage Specification), so that tools that read cloud
//! bills can read it. There is one line for each day, function, version, class of GPU, price and kind of work.

use gannet_base::bill::usage::{Sums, UsageKey};
use gannet_base::time::{day_text, month_of, month_start};
use std::collections::BTreeMap;

const COLUMNS: [&str; 34] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "SkuPriceId",
    "SubAccountId",
    "Tags",
];

/// Writes millionths as a decimal number.
fn decimal(micro: u64) -> String {
    format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

/// One kind of work in a row of usage.
struct Charge {
    sku: &'static str,
    description: &'static str,
    quantity: String,
    unit: &'static str,
    unit_price: u64,
    micro_units: u64,
}

fn charges(key: &UsageKey, sums: &Sums) -> Vec<Charge> {
    let thousandths = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let all = [
        Charge {
            sku: "gpu",
            description: "GPU work, by the started millisecond of a request",
            quantity: thousandths(sums.gpu_ms),
            unit: "Seconds",
            unit_price: key.price.gpu_micro_units_per_s,
            micro_units: sums.gpu_micro_units,
        },
        Charge {
            sku: "cpu",
            description: "CPU work, by the started millisecond of a request",
            quantity: thousandths(sums.cpu_ms),
            unit: "Seconds",
            unit_price: key.price.cpu_micro_units_per_s,
            micro_units: sums.cpu_micro_units,
        },
        Charge {
            sku: "gpu-memory",
            description: "GPU memory kept while nobody calls",
            quantity: format!("{}.{:03}", sums.resident_mib_s / 1024, sums.resident_mib_s % 1024 * 1000 / 1024),
            unit: "GiB-Seconds",
            unit_price: key.price.resident_micro_units_per_gib_s,
            micro_units: sums.resident_micro_units,
        },
    ];
    let used = [sums.gpu_ms > 0, sums.cpu_ms > 0, sums.resident_mib_s > 0 || sums.resident_micro_units > 0];
    all.into_iter().zip(used).filter_map(|(charge, used)| used.then_some(charge)).collect()
}

fn month_end(day: i64) -> i64 {
    let month = month_of(day);
    (day..day + 32).find(|next| month_of(*next) != month).unwrap_or(day)
}

/// Returns usage as CSV.
pub fn csv(rows: &BTreeMap<UsageKey, Sums>, currency: &str) -> Result<Vec<u8>, String> {
    let mut out = ::csv::Writer::from_writer(Vec::new());
    out.write_record(COLUMNS).map_err(|error| error.to_string())?;
    let midnight = |day: i64| format!("{}T00:00:00Z", day_text(day));
    for (key, sums) in rows {
        for charge in charges(key, sums) {
            let (tenant, function) = (key.tenant.to_string(), key.function.to_string());
            let (cost, price) = (decimal(charge.micro_units), decimal(charge.unit_price));
            let tags = serde_json::json!({ "version": key.version, "gpu_class": key.class }).to_string();
            let record: [String; 34] = [
                cost.clone(),
                tenant.clone(),
                tenant.clone(),
                currency.to_owned(),
                midnight(month_end(key.day)),
                midnight(month_start(key.day)),
                "Usage".into(),
                String::new(),
                charge.description.into(),
                "Usage-Based".into(),
                midnight(key.day + 1),
                midnight(key.day),
                charge.quantity.clone(),
                charge.unit.into(),
                cost.clone(),
                price.clone(),
                cost.clone(),
                "Gannet".into(),
                cost,
                price,
                "Standard".into(),
                charge.quantity,
                charge.unit.into(),
                "Gannet".into(),
                "Gannet".into(),
                format!("{tenant}/{function}"),
                function,
                "Function".into(),
                "Compute".into(),
                "Serverless GPU".into(),
                format!("{}/{}", charge.sku, key.class),
                format!("{}/{}/{}", charge.sku, key.class, charge.unit_price),
                tenant,
                tags,
            ];
            out.write_record(&record).map_err(|error| error.to_string())?;
        }
    }
    out.into_inner().map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::bill::price::Price;
    use gannet_base::names::{FunctionName, TenantName};

    #[test]
    fn lines_add_up_and_have_every_column() {
        let key = UsageKey {
            tenant: TenantName::new("acme").unwrap(),
            day: 20_781,
            function: FunctionName::new("blur").unwrap(),
            version: 3,
            class: "h100".into(),
            price: Price { gpu_micro_units_per_s: 700, cpu_micro_units_per_s: 20, resident_micro_units_per_gib_s: 9 },
        };
        let sums = Sums { gpu_ms: 1_500, cpu_ms: 2, gpu_micro_units: 1_234_567, cpu_micro_units: 1, ..Sums::default() };
        let text = String::from_utf8(csv(&BTreeMap::from([(key, sums)]), "USD").unwrap()).unwrap();
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let head = reader.headers().unwrap().clone();
        let rows: Vec<::csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let cell = |row: &::csv::StringRecord, name: &str| {
            row.get(head.iter().position(|column| column == name).unwrap()).unwrap().to_owned()
        };
        assert_eq!(rows.len(), 2);
        assert_eq!(cell(&rows[0], "BilledCost"), "1.234567");
        assert_eq!(cell(&rows[0], "ConsumedQuantity"), "1.500");
        assert_eq!(cell(&rows[0], "ListUnitPrice"), "0.000700");
        assert_eq!(cell(&rows[0], "ChargePeriodStart"), "2026-11-24T00:00:00Z");
        assert_eq!(cell(&rows[0], "BillingPeriodStart"), "2026-11-01T00:00:00Z");
        assert_eq!(cell(&rows[0], "BillingPeriodEnd"), "2026-12-01T00:00:00Z");
        assert_eq!(cell(&rows[1], "SkuId"), "cpu/h100");
    }
}
