// Vercel's AI SDK, with its provider for OpenAI-compatible servers, against a gateway.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import * as ai from 'ai';
import { z } from 'zod';

const { embed, embedMany, generateText, isStepCount, Output, stepCountIs, streamText, tool } = ai;
const options = { name: 'mesh', baseURL: `${process.env.MESH_URL}/v1`, apiKey: 'none', includeUsage: true };
const provider = createOpenAICompatible({ ...options, supportsStructuredOutputs: true });
const plain = createOpenAICompatible(options);
const name = process.env.MESH_MODEL;
const model = provider(name);
const prompt = 'What is the capital of France?';
const asked = { model, prompt, maxOutputTokens: 24, temperature: 0, maxRetries: 0 };
const person = z.object({ name: z.string().max(20), age: z.number().int() });
const weather = tool({
  description: 'The weather of a city',
  inputSchema: z.object({ city: z.string().max(20) }),
  execute: async ({ city }) => `sunny in ${city}`,
});
const steps = stepCountIs ?? isStepCount;

test('generateText', async () => {
  const { text, usage, finishReason } = await generateText(asked);
  assert.match(text, /Paris/);
  assert.ok(usage.outputTokens > 3);
  assert.ok(['stop', 'length'].includes(finishReason));
});

test('streamText', async () => {
  const result = streamText(asked);
  let text = '';
  for await (const piece of result.textStream) text += piece;
  assert.match(text, /Paris/);
  assert.ok((await result.usage).outputTokens > 3);
});

test('streamText that is aborted', async () => {
  const controller = new AbortController();
  const result = streamText({ ...asked, maxOutputTokens: 500, abortSignal: controller.signal });
  for await (const piece of result.textStream) {
    assert.ok(piece !== undefined);
    controller.abort();
  }
  assert.match((await generateText(asked)).text, /Paris/);
});

test('system, turns and stop sequences', async () => {
  const messages = [
    { role: 'user', content: 'Hello.' },
    { role: 'assistant', content: 'Hello! How can I help?' },
    { role: 'user', content: prompt },
  ];
  const { prompt: _, ...rest } = asked;
  const { text } = await generateText({ ...rest, messages, stopSequences: ['.'], seed: 3 });
  assert.ok(!text.includes('.'));
});

test('an object of a schema', async () => {
  const { output } = await generateText({ ...asked, maxOutputTokens: 120, prompt: 'Invent a person.', output: Output.object({ schema: person }) });
  assert.deepEqual(Object.keys(output).sort(), ['age', 'name']);
});

test('an object of a schema, streamed', async () => {
  const result = streamText({ ...asked, maxOutputTokens: 120, prompt: 'Invent a person.', output: Output.object({ schema: person }) });
  for await (const part of result.partialOutputStream) assert.equal(typeof part, 'object');
  assert.deepEqual(Object.keys(await result.output).sort(), ['age', 'name']);
});

test('a choice', async () => {
  const { output } = await generateText({ ...asked, prompt: 'Is the sky blue?', output: Output.choice({ options: ['yes', 'no'] }) });
  assert.ok(['yes', 'no'].includes(output));
});

test('forced call is executed', async () => {
  const result = await generateText({ ...asked, maxOutputTokens: 60, prompt: 'Weather in Rome?', tools: { weather }, toolChoice: { type: 'tool', toolName: 'weather' } });
  assert.equal(result.toolCalls[0].toolName, 'weather');
  assert.match(result.toolResults[0].output, /^sunny in /);
});

test('forced call, streamed', async () => {
  const result = streamText({ ...asked, maxOutputTokens: 60, prompt: 'Weather in Rome?', tools: { weather }, toolChoice: { type: 'tool', toolName: 'weather' } });
  const kinds = new Set();
  for await (const part of result.fullStream) kinds.add(part.type);
  assert.ok(kinds.has('tool-call') && kinds.has('tool-result'), [...kinds].join());
});

test('a call and its result in two steps', async () => {
  const result = await generateText({
    ...asked,
    maxOutputTokens: 60,
    prompt: 'Weather in Rome?',
    tools: { weather },
    toolChoice: { type: 'tool', toolName: 'weather' },
    stopWhen: steps(2),
    prepareStep: ({ stepNumber }) => (stepNumber === 0 ? {} : { toolChoice: 'none' }),
  });
  assert.equal(result.steps.length, 2);
  assert.ok(result.text);
});

test('legacy completion', async () => {
  const { text } = await generateText({ ...asked, model: plain.completionModel(name), prompt: 'The capital of France is', maxOutputTokens: 4 });
  assert.ok(text.length > 0);
});

test('embeddings', async () => {
  const options = { model: provider.embeddingModel(name), maxRetries: 0 };
  assert.equal((await embed({ ...options, value: 'a cat' })).embedding.length, 576);
  assert.equal((await embedMany({ ...options, values: ['a cat', 'a dog'] })).embeddings.length, 2);
});

test('unknown model', async () => {
  await assert.rejects(generateText({ ...asked, model: provider('gpt-99') }), (error) => error.statusCode === 404);
});

// What is not served.
test('image', async () => {
  const image = { type: 'file', mediaType: 'image/png', data: new Uint8Array([137, 80, 78, 71]) };
  const { prompt: _, ...rest } = asked;
  await generateText({ ...rest, messages: [{ role: 'user', content: [image] }] });
});
