// The conversations, which this browser alone keeps: nothing of them is ever sent, but to the model
// that is asked. Each user of a browser has their own list.

const MOST = 100;

/** The list of one user: `{id, title, system, messages: [{role, text, images, model}]}`, newest first. */
export class Conversations {
  constructor(subject) {
    this.place = `portero.conversations.${subject}`;
  }

  all() {
    try {
      const found = JSON.parse(localStorage.getItem(this.place) ?? "[]");
      return Array.isArray(found) ? found : [];
    } catch {
      return [];
    }
  }

  find(id) {
    return this.all().find((one) => one.id === id);
  }

  /** Whether there was room. Another page of this browser may have kept others meanwhile. */
  keep(conversation) {
    const others = this.all().filter((one) => one.id !== conversation.id);
    return this.put([conversation, ...others]) || this.put([withoutImages(conversation), ...others]);
  }

  put(list) {
    try {
      localStorage.setItem(this.place, JSON.stringify(list.slice(0, MOST)));
      return true;
    } catch {
      return false;
    }
  }

  deleteAll() {
    localStorage.removeItem(this.place);
  }
}

function withoutImages(conversation) {
  return { ...conversation, messages: conversation.messages.map((one) => ({ ...one, images: [] })) };
}
