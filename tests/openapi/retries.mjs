// Submits a job with got, which sends the request again when its answer is lost. Arguments: address, key, body.
import got from "got";

const [, , url, key, body] = process.argv;
const answer = await got.post(url, {
  body,
  headers: { "Content-Type": "application/json", "Idempotency-Key": key },
  retry: { limit: 5, methods: ["POST"], statusCodes: [409, 429, 503], calculateDelay: ({ computedValue }) => computedValue && 100 },
});
console.log(
  JSON.stringify({
    status: answer.statusCode,
    body: answer.body,
    location: answer.headers.location,
    replayed: answer.headers["idempotent-replayed"],
    retries: answer.retryCount,
  }),
);
