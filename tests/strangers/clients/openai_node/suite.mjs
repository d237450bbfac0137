// OpenAI's client for Node against a gateway.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';

const model = process.env.MESH_MODEL;
const client = new OpenAI({ baseURL: `${process.env.MESH_URL}/v1`, apiKey: 'none', maxRetries: 0, timeout: 600_000 });
const messages = [{ role: 'user', content: 'What is the capital of France?' }];
const asked = { model, messages, max_tokens: 24, temperature: 0 };
const parameters = {
  type: 'object',
  properties: { city: { type: 'string', maxLength: 20 }, days: { enum: [1, 7] } },
  required: ['city', 'days'],
  additionalProperties: false,
};
const tools = [{ type: 'function', function: { name: 'weather', parameters } }];

test('chat', async () => {
  const answer = await client.chat.completions.create(asked);
  assert.match(answer.choices[0].message.content, /Paris/);
});

test('chat stream', async () => {
  const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  let text = '';
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? '';
    usage = chunk.usage ?? usage;
  }
  assert.match(text, /Paris/);
  assert.ok(usage.completion_tokens > 3);
});

test('chat stream helper', async () => {
  const final = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.match(final.choices[0].message.content, /Paris/);
});

test('a stream that is left early', async () => {
  const stream = await client.chat.completions.create({ ...asked, max_tokens: 500, stream: true });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  stream.controller.abort();
  assert.ok((await client.chat.completions.create({ ...asked, max_tokens: 1 })).id);
});

test('forced call', async () => {
  const answer = await client.chat.completions.create({ ...asked, tools, tool_choice: 'required', parallel_tool_calls: false, max_tokens: 100 });
  assert.equal(answer.choices[0].finish_reason, 'tool_calls');
  for (const call of answer.choices[0].message.tool_calls) {
    assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)).sort(), ['city', 'days']);
  }
});

test('runTools calls a function and reads its result', async () => {
  let called = 0;
  const runner = client.chat.completions.runTools({
    ...asked,
    max_tokens: 100,
    tool_choice: { type: 'function', function: { name: 'weather' } },
    tools: [{
      type: 'function',
      function: { name: 'weather', parameters, parse: JSON.parse, function: ({ city }) => { called += 1; return `sunny in ${city}`; } },
    }],
  });
  await runner.done();
  assert.equal(called, 1);
});

test('json schema', async () => {
  const response_format = { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema: parameters } };
  const answer = await client.chat.completions.parse({ ...asked, max_tokens: 100, response_format });
  assert.ok([1, 7].includes(answer.choices[0].message.parsed.days));
});

test('responses', async () => {
  const answer = await client.responses.create({ model, input: messages[0].content, max_output_tokens: 24, temperature: 0 });
  assert.match(answer.output_text, /Paris/);
});

test('responses stream', async () => {
  const stream = client.responses.stream({ model, input: messages[0].content, max_output_tokens: 24, temperature: 0 });
  let text = '';
  stream.on('response.output_text.delta', (event) => { text += event.delta; });
  const final = await stream.finalResponse();
  assert.equal(final.output_text, text);
});

test('legacy completion', async () => {
  const answer = await client.completions.create({ model, prompt: 'The capital of France is', max_tokens: 4, temperature: 0 });
  assert.match(answer.choices[0].text, /Paris/);
});

test('embeddings', async () => {
  const answer = await client.embeddings.create({ model, input: ['a cat', 'a dog'] });
  assert.deepEqual(answer.data.map((entry) => entry.embedding.length), [576, 576]);
});

test('models', async () => {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  assert.deepEqual(ids, [model]);
});

test('unknown model', async () => {
  await assert.rejects(client.chat.completions.create({ ...asked, model: 'gpt-99' }), OpenAI.NotFoundError);
});

// What is not served.
test('image', async () => {
  const image = { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } };
  await client.chat.completions.create({ ...asked, messages: [{ role: 'user', content: [image] }] });
});
