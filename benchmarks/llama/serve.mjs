// llama.cpp in a process of its own: node serve.mjs MODEL.gguf THREADS
//
// A line of stdin is {"prompt": [token ids], "new": count}; a line of stdout the tokens and the
// seconds to the first and to the last one. Greedy, and no token ends an answer.

import {createInterface} from "node:readline";
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const [modelPath, threads] = process.argv.slice(2);
const llama = await getLlama({
    build: "never",
    gpu: false,
    logLevel: LlamaLogLevel.error,
    maxThreads: Number(threads),
    progressLogs: false,
    skipDownload: true
});
const model = await llama.loadModel({modelPath, gpuLayers: 0});
const context = await model.createContext({
    batchSize: 256, contextSize: 512, sequences: 1, threads: {ideal: Number(threads), min: Number(threads)}
});
const sequence = context.getSequence();

async function answer(prompt, count) {
    await sequence.clearHistory();
    const tokens = [];
    let first = 0;
    const started = performance.now();
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        tokens.push(token);
        first ||= performance.now();
        if (tokens.length === count)
            break;
    }
    const ended = performance.now();
    return {first_s: (first - started) / 1000, total_s: (ended - started) / 1000, tokens};
}

console.log(JSON.stringify({ready: true}));
for await (const line of createInterface({input: process.stdin})) {
    const request = JSON.parse(line);
    console.log(JSON.stringify(await answer(request.prompt, request.new)));
}
process.exit(0);
