// The way to the service for pictures. At most one or two of them are under way (or as many as the service asks for, which
// takes those that wait at once), so that what is answered is never old.

const GIVE_UP_MS = 5000; // a picture that was not answered by then is taken for lost
const HEADER_BYTES = 8;
const REASONS = {
  1009: "A picture was larger than the service takes.",
  1011: "The service made a mistake; its log says more.",
  1012: null, // it ends: tried again, as any that is gone
  1013: "The service has no room for another camera now. Press Start to try again.",
  4401: "The service does not know this page's token. Open the page by the address that kinema serve has printed.",
  4408: "The service has let go of this camera, as no pictures came. Press Start to go on.",
};

export class Connection {
  // `onMessage` is given what the service says; `onState` "open", "gone" (it is tried again) or "refused", with words.
  constructor({ token, onMessage, onState }) {
    const query = token ? `?token=${encodeURIComponent(token)}` : "";
    this.address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live${query}`;
    this.onMessage = onMessage;
    this.onState = onState;
    this.underWay = new Map(); // time of a picture -> when it was sent
    this.most = 1;
    this.hello = null;
    this.pause = 500;
  }

  open() {
    if (this.socket) return;
    clearTimeout(this.timer);
    const socket = this.socket = new WebSocket(this.address);
    socket.binaryType = "arraybuffer";
    this.underWay.clear();
    this.hello = null;
    socket.onmessage = ({ data }) => { if (socket === this.socket) this.take(JSON.parse(data)); };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.socket) return;
      this.socket = this.hello = null;
      const words = REASONS[code];
      if (words) this.onState("refused", reason ? `${words} (${reason})` : words);
      else this.again();
    };
  }

  again() {
    this.pause = Math.min(8000, 2 * this.pause);
    this.timer = setTimeout(() => this.open(), this.pause);
    this.onState("gone", "The service cannot be reached; trying again. Is kinema serve still running?");
  }

  close() {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = this.hello = null;
    socket?.close();
  }

  // Whether a picture that is taken now would be looked at soon.
  get hasRoom() {
    if (!this.hello || this.socket.bufferedAmount > this.hello.picture_bytes) return false;
    const now = performance.now();
    for (const [time, sent] of this.underWay) if (now - sent > GIVE_UP_MS) this.underWay.delete(time);
    return this.underWay.size < Math.max(this.most, this.hello.ahead);
  }

  send(timeMs, jpeg) {
    if (!this.hello) return;
    const message = new Uint8Array(HEADER_BYTES + jpeg.byteLength);
    new DataView(message.buffer).setFloat64(0, timeMs, true);
    message.set(new Uint8Array(jpeg), HEADER_BYTES);
    this.underWay.set(timeMs, performance.now());
    this.socket.send(message);
  }

  // No more pictures come for now: actions that go on are over. Where the service has not answered yet there are none.
  finish() {
    if (this.hello) this.socket.send("finish");
    else this.close();
  }

  take(message) {
    if (message.type === "hello") {
      this.hello = message;
      this.pause = 500;
      this.onState("open", "");
    } else if (message.type === "error") {
      this.underWay.clear();
    } else if (message.time_ms !== undefined) {
      const sent = this.underWay.get(message.time_ms);
      for (const time of this.underWay.keys()) if (time <= message.time_ms) this.underWay.delete(time);
      // Where the way takes longer than the answer, the service need not wait for the next picture to come.
      const onTheWay = performance.now() - sent - 1000 * message.seconds;
      this.most = onTheWay > 1000 * message.seconds ? 2 : 1;
    }
    this.onMessage(message);
  }
}
