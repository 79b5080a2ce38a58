// Uses the types that openapi-typescript makes from the document: submits a job, waits for its end, reads its output.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };

const [, , baseUrl, routes] = process.argv;
const client = createClient<paths>({ baseUrl: baseUrl! });
const ended: components["schemas"]["Status"][] = ["completed", "failed", "cancelled"];

const submission: components["schemas"]["CsvGenerationSubmission"] = {
  type: "csv-generation",
  payload: { rows: [{ name: "Alice", score: 95 }], delimiter: ";" },
};
const submitted = await client.POST("/jobs", { body: submission });
if (!submitted.data) throw new Error(submitted.error.detail);
const path = { job_id: submitted.data.job_id };
// A document that describes neither takes neither.
const waiting: object = routes!.includes("wait") ? { query: { wait: 10 } } : {};

let job: components["schemas"]["Job"];
do {
  const read = await client.GET("/jobs/{job_id}", { params: { path, ...waiting } });
  if (!read.data) throw new Error(read.error.detail);
  job = read.data;
} while (!ended.includes(job.status));

let output: string | null = null;
if (routes!.includes("output")) {
  const read = await client.GET("/jobs/{job_id}/output" as "/jobs/{job_id}", { params: { path }, parseAs: "text" });
  output = String(read.data);
}

const refused = await client.POST("/jobs", { body: { ...submission, priority: 10 } });
console.log(JSON.stringify({ job, output, refused: refused.error?.code }));
