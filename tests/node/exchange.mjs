// Sends an order with CloudEvents' SDK for JavaScript, and prints what it hears of the payment, as the SDK reads it.
// node exchange.mjs BROKER_URL NAMESPACE ORDER_ID MODE, which is structured, binary or batched.
import amqp from "amqplib";
import { CloudEvent, HTTP } from "cloudevents";

const [url, namespace, order, mode] = process.argv.slice(2);
const TYPE = "orders.order_placed.v2";
const connection = await amqp.connect(url);
const channel = await connection.createConfirmChannel();
const { queue } = await channel.assertQueue("", { exclusive: true });
await channel.bindQueue(queue, `${namespace}payments.payment_authorized.v1`, "");

const placed = new CloudEvent({
  type: TYPE,
  source: "/javascript",
  subject: order,
  datacontenttype: "application/json",
  data: { payment_token: "tok_approved", total: 4200, currency: "KRW" },
});
if (mode === "batched") {
  const other = placed.cloneWith({ id: crypto.randomUUID(), subject: crypto.randomUUID() });
  const body = JSON.stringify([other, placed]);
  channel.publish(namespace + TYPE, "", Buffer.from(body), { contentType: "application/cloudevents-batch+json" });
} else {
  const { headers, body } = mode === "binary" ? HTTP.binary(placed) : HTTP.structured(placed);
  const { "content-type": contentType, ...attributes } = headers;
  channel.publish(namespace + TYPE, "", Buffer.from(body), { contentType, headers: attributes });
}
await channel.waitForConfirms();

const timeout = setTimeout(() => { console.error("nothing was heard"); process.exit(1); }, 60_000);
await channel.consume(queue, (message) => {
  const events = [HTTP.toEvent({
    headers: { "content-type": message.properties.contentType },
    body: message.content.toString(),
  })].flat();
  events.forEach((event) => event.validate());
  const heard = events.find((event) => event.subject === order);
  if (!heard) return;
  clearTimeout(timeout);
  console.log(JSON.stringify({ sent: placed, heard }));
  connection.close();
}, { noAck: true });
