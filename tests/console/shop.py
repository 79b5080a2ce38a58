"""The job types of a shop, some of which fail: what the pictures of the console show. ACTOR_MODULES=shop loads them."""

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from jobs_service.errors import Rejected, Unavailable
from jobs_service.jobs.job_types import JobContext, job


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order of the shop."""

    order_id: Annotated[int, Meta(description="The number of the order.", ge=1)]
    customer: Annotated[str, Meta(description="Who ordered.", max_length=200)]
    total: Annotated[float, Meta(description="In euros.", ge=0)] = 0.0


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which orders to export."""

    month: Annotated[str, Meta(description="The month, such as 2026-11.", pattern="^[0-9]{4}-[0-9]{2}$")]
    orders: Annotated[int, Meta(description="How many orders it has.", ge=1, le=1_000_000)]


@job("order-export", payload=Export, queue="reports", time_limit_seconds=600, example=Export("2026-11", 12_000))
def order_export(payload: Export, context: JobContext) -> dict[str, object]:
    """Write the orders of a month as a file, with one line for each order."""
    context.log.info("Reading the orders", month=payload.month)
    for done in range(0, payload.orders, 100):
        context.stop_if_cancelled()
        context.progress(done, payload.orders, "orders written")
        time.sleep(0.02)
    context.log.info("Written", orders=payload.orders)
    return {"orders": payload.orders, "month": payload.month}


@job("payment-capture", payload=Order, queue="payments", max_attempts=3, example=Order(4711, "Alice", 95.0))
def payment_capture(payload: Order, context: JobContext) -> dict[str, object]:
    """Capture the payment of an order that was shipped."""
    context.log.info("Asking the bank", order=payload.order_id)
    if payload.order_id % 5 == 0:
        raise Rejected(f"card declined for order {payload.order_id}: insufficient funds")
    if payload.order_id % 7 == 0:
        raise ConnectionResetError(104, f"Connection reset by the bank's gateway at 192.0.2.{payload.order_id % 250}")
    time.sleep(0.05)
    return {"captured": payload.total}


@job("stock-sync", payload=Order, queue="stock", max_attempts=8)
def stock_sync(payload: Order, context: JobContext) -> None:
    """Tell the warehouse that an order needs its goods."""
    context.ask("warehouse.example.com")
    if payload.order_id % 3 == 0:
        raise Unavailable("warehouse.example.com does not answer", server="warehouse.example.com")
    if context.number < 3:
        raise TimeoutError(f"no answer within 2 s about order {payload.order_id}")
    time.sleep(0.02)
