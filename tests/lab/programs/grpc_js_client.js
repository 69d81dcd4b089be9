// Tries what gRPC promises on the service of grpc_interop_server.py, from Node.js, and says as JSON what came of each case.
//
// usage: node grpc_js_client.js TARGET MODULES
'use strict';
const assert = require('node:assert');
const path = require('node:path');
const grpc = require(path.join(process.argv[3], '@grpc/grpc-js'));

const bytes = (message) => message;
const method = (name, requestStream, responseStream) => ({
  path: `/lab.Interop/${name}`, requestStream, responseStream,
  requestSerialize: bytes, requestDeserialize: bytes, responseSerialize: bytes, responseDeserialize: bytes,
});
const unaries = ['Unary', 'Size', 'Length', 'Status', 'Details', 'Left', 'Slow', 'WasCancelled', 'Nothing'];
const service = {
  Collect: method('Collect', true, false), Early: method('Early', true, false), Count: method('Count', false, true),
  Midway: method('Midway', false, true), Endless: method('Endless', false, true), Silent: method('Silent', false, true),
  Chat: method('Chat', true, true),
};
for (const name of unaries) service[name] = method(name, false, false);
const client = new (grpc.makeGenericClientConstructor(service, 'Interop'))(
  process.argv[2], grpc.credentials.createInsecure(), { 'grpc.max_receive_message_length': -1 });

const within = (seconds) => ({ deadline: Date.now() + seconds * 1000 });
const call = (name, request = '', metadata = new grpc.Metadata(), options = within(20)) => new Promise((resolve, reject) => {
  client[name](Buffer.from(request), metadata, options, (error, answer) => (error ? reject(error) : resolve(answer)));
});
const failure = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('the call succeeded');
};
const text = async (promise) => (await promise).toString();
const collected = async (stream) => {
  const got = [];
  for await (const message of stream) got.push(message.toString());
  return got;
};
const numbers = (count) => Array.from({ length: count }, (_, number) => `${number}`);

const cases = {
  'a unary call': async () => assert.equal(await text(call('Unary', 'hello')), 'hello'),
  'an empty message': async () => assert.equal(await text(call('Unary')), ''),
  'a hundred calls at once': async () => {
    assert.deepEqual(await Promise.all(numbers(100).map((number) => text(call('Unary', number)))), numbers(100));
  },
  "messages of a client's stream": async () => {
    const answer = await new Promise((resolve, reject) => {
      const stream = client.Collect(within(20), (error, got) => (error ? reject(error) : resolve(got.toString())));
      numbers(100).forEach((number) => stream.write(Buffer.from(number)));
      stream.end();
    });
    assert.equal(answer, numbers(100).join(','));
  },
  "messages of a server's stream": async () => {
    assert.deepEqual(await collected(client.Count(Buffer.from('500'), within(20))), numbers(500));
  },
  "a server's stream without messages": async () => {
    assert.deepEqual(await collected(client.Silent(Buffer.from(''), within(20))), []);
  },
  'both sides of a stream in turn': async () => {
    const stream = client.Chat(within(20));
    const got = [];
    stream.write(Buffer.from('0'));
    for await (const message of stream) {
      got.push(message.toString());
      if (got.length < 50) stream.write(Buffer.from(`${got.length}`));
      else stream.end();
    }
    assert.deepEqual(got, numbers(50));
  },
  'metadata both ways': async () => {
    const sent = new grpc.Metadata();
    sent.set('x-key', 'value with spaces');
    sent.set('x-key-bin', Buffer.from([0, 1, 255]));
    const [initial, trailing] = await new Promise((resolve, reject) => {
      let first;
      const one = client.Unary(Buffer.from(''), sent, within(20), (error) => error && reject(error));
      one.on('metadata', (metadata) => { first = metadata; });
      one.on('status', (status) => resolve([first, status.metadata]));
    });
    assert.deepEqual(initial.get('x-key'), ['value with spaces']);
    assert.deepEqual(trailing.get('x-trailing-key'), ['value with spaces']);
    assert.deepEqual(trailing.get('x-trailing-key-bin'), [Buffer.from([0, 1, 255])]);
  },
  'details of a status': async () => {
    const error = await failure(call('Details'));
    assert.equal(error.code, grpc.status.FAILED_PRECONDITION);
    assert.deepEqual(error.metadata.get('grpc-status-details-bin'), [Buffer.from('08091205776f726473', 'hex')]);
  },
  'a stream that fails after two messages': async () => {
    const got = [];
    const error = await failure((async () => {
      for await (const message of client.Midway(Buffer.from(''), within(20))) got.push(message.toString());
    })());
    assert.deepEqual([got, error.code, error.details], [['one', 'two'], grpc.status.DATA_LOSS, 'after two']);
  },
  'a method that does not exist': async () => {
    assert.equal((await failure(call('Nothing'))).code, grpc.status.UNIMPLEMENTED);
  },
  'the deadline is told to the server': async () => {
    const left = Number(await text(call('Left', '', new grpc.Metadata(), within(10))));
    assert.ok(left > 5 && left <= 10, `${left}`);
  },
  'a deadline that passes': async () => {
    const error = await failure(call('Slow', '2', new grpc.Metadata(), within(0.3)));
    assert.equal(error.code, grpc.status.DEADLINE_EXCEEDED);
  },
  "a client's cancellation reaches the server": async () => {
    const stream = client.Endless(Buffer.from(''), within(20));
    stream.on('error', () => {});
    await new Promise((resolve) => { stream.once('data', resolve); });
    stream.cancel();
    assert.equal(await text(call('WasCancelled')), 'yes');
  },
};
for (const size of [1, 65535, 65536, 4000000]) {
  cases[`an answer of ${size} bytes`] = async () => assert.equal((await call('Size', `${size}`)).length, size);
  cases[`a message of ${size} bytes`] = async () => assert.equal(await text(call('Length', Buffer.alloc(size, 'a'))), `${size}`);
}
for (let code = 1; code <= 16; code += 1) {
  cases[`status ${code} and its words`] = async () => {
    const error = await failure(call('Status', `${code}`));
    assert.deepEqual([error.code, error.details], [code, `words for ${code}: \u00e9 % \u4e16`]);
  };
}

(async () => {
  const outcomes = [];
  for (const [name, attempt] of Object.entries(cases)) {
    try {
      await attempt();
      outcomes.push({ name });
    } catch (error) {
      outcomes.push({ name, failure: `${error}`.slice(0, 500) });
    }
  }
  client.close();
  console.log(JSON.stringify(outcomes));
})();
