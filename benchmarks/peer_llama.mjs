// Answers with llama.cpp, for peers.py: node peer_llama.mjs FOLDER FILE SETTINGS
//
// FOLDER holds node_modules, FILE is the model, SETTINGS the options of a context, as JSON. A line
// {"prompt": [ids], "max_new_tokens": n} is answered by {"tokens": [ids], "seconds": wall time,
// prompt included}; the end of the input ends the process.

import {join} from "node:path";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [folder, file, settings] = process.argv.slice(2);
const entry = join(folder, "node_modules", "node-llama-cpp", "dist", "index.js");
const {getLlama} = await import(pathToFileURL(entry).href);

// Without a limit here, a context takes the number of threads that it is told.
const llama = await getLlama({gpu: false, build: "never", maxThreads: 0, logLevel: "error"});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({
    contextSize: model.trainContextSize,
    ...JSON.parse(settings)
});
const sequence = context.getSequence();

async function answer(prompt, maxNewTokens) {
    const tokens = [];
    const begin = performance.now();
    await sequence.clearHistory();
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        tokens.push(token);
        if (token === model.tokens.eos || tokens.length === maxNewTokens) break;
    }
    return {tokens, seconds: (performance.now() - begin) / 1000};
}

for await (const line of createInterface({input: process.stdin})) {
    const {prompt, max_new_tokens: maxNewTokens} = JSON.parse(line);
    console.log(JSON.stringify(await answer(prompt, maxNewTokens)));
}
process.exit();
