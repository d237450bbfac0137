// A stock polkadot.js against the chain whose URL is the first argument; prints JSON.
import { ApiPromise, WsProvider } from '@polkadot/api';
import { Keyring } from '@polkadot/keyring';

const [url, phrase] = process.argv.slice(2);
const api = await ApiPromise.create({ provider: new WsProvider(url), noInitWarn: true });
const keyring = new Keyring({ type: 'ethereum' });
const path = (index) => `${phrase}/m/44'/60'/0'/0/${index}`;
const alith = keyring.addFromUri(path(0));

function submit(signer, extrinsic) {
  return new Promise((resolve, reject) => {
    extrinsic
      .signAndSend(signer, ({ status, events, dispatchError }) => {
        // The library forgets InBlock when Finalized comes while it still fetches the events.
        if (!status.isInBlock && !status.isFinalized) return;
        const error = dispatchError?.isModule ? api.registry.findMetaError(dispatchError.asModule).name : null;
        resolve({ error, events: events.map(({ event }) => `${event.section}.${event.method}`) });
      })
      .catch(reject);
  });
}

const seen = { chain: (await api.rpc.system.chain()).toString() };
seen.epochLength = api.consts.network.epochLength.toNumber();
seen.activationMode = api.consts.network.activationMode.toString();
seen.transfer = await submit(alith, api.tx.balances.transferKeepAlive('0x' + '77'.repeat(20), 10n ** 18n));
seen.failure = await submit(alith, api.tx.network.attest(1, null));
// Text given to an OpaquePeerId is wrapped twice by the library, so the text's bytes go in.
const peer = '0x' + Buffer.from('12D3KooW' + 'A'.repeat(44)).toString('hex');
const bootnode = process.argv[4];
seen.subnet = await submit(
  alith,
  api.tx.network.registerSubnet(10n ** 19n, {
    name: 'from-js',
    repo: 'repo',
    description: '',
    misc: '',
    minStake: 100n * 10n ** 18n,
    maxStake: 1000n * 10n ** 18n,
    delegateStakePercentage: 10n ** 17n,
    initialColdkeys: new Map([0, 1, 2].map((i) => [keyring.addFromUri(path(i)).address, 1])),
    bootnodes: new Map([[peer, bootnode]]),
  }),
);
seen.node = await submit(
  alith,
  api.tx.network.registerSubnetNode(
    128001, keyring.addFromUri(path(10)).address, { peerId: peer, multiaddr: null }, null, null,
    0, 100n * 10n ** 18n, null, null, null, 10n ** 18n,
  ),
);
seen.activation = await submit(alith, api.tx.network.activateSubnetNode(128001, 1));
const node = await api.query.network.subnetNodesData(128001, 1);
seen.stored = { id: node.id.toNumber(), nodeClass: node.classification.nodeClass.toString() };
seen.data = (await api.query.network.subnetsData(128001)).toHuman();
seen.entries = (await api.query.network.subnetNodesData.entries(128001)).length;
seen.info = (await api.tx.system.remark('0x00').paymentInfo(alith)).partialFee.toString();
seen.heads = await new Promise(async (resolve) => {
  const numbers = [];
  const stop = await api.rpc.chain.subscribeNewHeads((head) => {
    numbers.push(head.number.toNumber());
    if (numbers.length === 3) { stop(); resolve(numbers); }
  });
});
// A subscription to storage, as the event page of polkadot.js Apps uses it.
seen.followed = await new Promise(async (resolve, reject) => {
  let stop = null;
  stop = await api.query.system.events((records) => {
    const names = records.map(({ event }) => `${event.section}.${event.method}`);
    if (stop === null || !names.includes('balances.Transfer')) return;
    stop();
    resolve(names);
  });
  submit(alith, api.tx.balances.transferKeepAlive('0x' + '78'.repeat(20), 10n ** 18n)).catch(reject);
});
console.log(JSON.stringify(seen));
await api.disconnect();

process.exit(0); // the library keeps the event loop alive for seconds
