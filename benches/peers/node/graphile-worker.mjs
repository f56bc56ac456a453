// Graphile Worker with the batching that its page on performance recommends: a local queue, and completions put together.
// Each alert is a job of its own, which is how it retries each on its own.
//
// For latency no refetch delay, and a completion waits for others for one turn of the event loop only; for throughput a
// local queue of 500, and the quarter of a second that the page recommends for completions, halved (which is a guess, and not a sweep).

import { Logger, run } from "graphile-worker";

import { channel, data, IN_FLIGHT, NAME, pusher } from "./alert.mjs";

const throughput = process.argv[2] === "deliveries";

await run({
  preset: {
    worker: {
      connectionString: process.env.DATABASE_URL,
      concurrentJobs: throughput ? 4 * IN_FLIGHT : IN_FLIGHT,
      maxPoolSize: throughput ? 4 * IN_FLIGHT + 2 : IN_FLIGHT + 2,
      pollInterval: 2_000,
      localQueue: { size: throughput ? 500 : IN_FLIGHT + 1 },
      completeJobBatchDelay: throughput ? 125 : 0,
      failJobBatchDelay: throughput ? 125 : 0,
      // Nothing is logged for each job.
      logger: new Logger(() => (level, message) => { if (level === "error") console.error(message); }),
    },
  },
  taskList: {
    alert: async (row) => {
      const response = await pusher.trigger(channel(row), NAME, data(row));
      // The connection is free for the next one only when the answer was read.
      await response.text();
    },
  },
});
console.log("ready");
